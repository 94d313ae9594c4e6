"""When recording pays."""

from __future__ import annotations

from chunkjac._programs.records import Records, SeenByDifferences, why_slower

# Recording takes so long for each operation, beside a chunk. It saves so much of each operation of a chunk (U-Net 0.03
# of the time, Lorenz 96 0.15), but no larger part of the time than this; where there are matrix products, it may save
# more. Less than some time is not worth looking at, nor other memory where that is counted.
_OPERATION_S, _SAVED_OPERATION_S, _SAVED_OF_OPERATIONS, _SAVED_OF_PRODUCTS = 3e-4, 6e-6, 0.2, 0.5
_WORTH_EVALUATING_S, _WORTH_COUNTING_S = 0.02, 0.25

# Recording a derivative takes so long for each node of autograd's graph (in all, if nobody has counted them), and the
# time of so many evaluations; it saves half of the time, or a quarter. Where a direction takes so long for a node that
# products of weights are most of it, it saves little: of ten networks of 24 to 180 million parameters (170 to 570
# microseconds), -5 to 16 %, where convolutions are small 11 to 23 %.
_NODE_S, _UNKNOWN_S, _EVALUATIONS, _SAVED_OF_DERIVATIVES = 2e-4, 0.1, 15, 0.4
_HEAVY_S, _SAVED_OF_HEAVY = 1e-4, 0.1

# A program holds two or three times what it is in place of, and each run records it: it has to take so much less time.
_NO_FASTER = 0.9

# Less than that is not worth looking at; and more than that for all nodes together is not spent at the second run.
_LEAST_S, _VERY_LONG_S = 0.02, 1.0


def evaluations_pay(seen: SeenByDifferences, chunk_s: float, n_chunks: float, *, is_counted: bool) -> bool:
    """Tell whether recording an evaluation saves more than it takes.

    Args:
        seen: What is known of the function.
        chunk_s: How long a chunk takes without a program.
        n_chunks: How many are left behind the one that is recorded.
        is_counted: Whether what chunks hold is counted.
    """
    if seen.has_products:
        saved_s = _SAVED_OF_PRODUCTS * chunk_s
    else:
        saved_s = min(_SAVED_OF_OPERATIONS * chunk_s, _SAVED_OPERATION_S * seen.n_operations)
    is_worth = n_chunks * chunk_s > (_WORTH_COUNTING_S if is_counted else _WORTH_EVALUATING_S)
    return is_worth and n_chunks * saved_s > 2 * chunk_s + _OPERATION_S * seen.n_operations


def derivatives_pay(records: Records, way: str, n_left: int, each_s: float, evaluation_s: float, n_nodes: int) -> bool:
    """Tell whether a program is worth it: in a first run, whether it saves more than it takes to record.

    What takes very long to record waits until runs have taken as long: there may be few of them. So all runs together
    take twice as long, at most, as they would if their number was known.

    Args:
        records: What the plan has so far.
        way: What the derivative is recorded as.
        n_left: How many directions are left.
        each_s: How long one takes without a program.
        evaluation_s: How long an evaluation of the function takes.
        n_nodes: How many nodes its graph has; 0 if that is unknown.
    """
    needed_s = _recording_s(evaluation_s, n_nodes)
    if not (records.n_runs or records.compiles):
        is_heavy = each_s > _HEAVY_S * max(1, n_nodes)
        return n_left * each_s > max(_LEAST_S, needed_s / (_SAVED_OF_HEAVY if is_heavy else _SAVED_OF_DERIVATIVES))
    is_early = _NODE_S * n_nodes > _VERY_LONG_S and records.spent_s < needed_s and not records.of(way).trace
    return records.wants(way) and not is_early


def why_no_faster(each_s: float, plain_s: float) -> str:
    """Say that a program takes no less time than what is done without one; empty where it does.

    Args:
        each_s: How long a direction takes by it, chunks after the first.
        plain_s: How long one takes without.
    """
    why = why_slower(each_s, plain_s, _NO_FASTER)
    return why and f"{why}, and holds more"


def _recording_s(evaluation_s: float, n_nodes: int) -> float:
    """Return how long it takes to record a derivative, or about that."""
    return (_NODE_S * n_nodes or _UNKNOWN_S) + _EVALUATIONS * evaluation_s
