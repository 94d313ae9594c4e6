"""List and run the benchmarks: ``python -m benchmarks [--quick] [NAME ...]``."""

from __future__ import annotations

import argparse
import importlib
import inspect
from pathlib import Path

from benchmarks.record import save

_NO_CLAIMS = (
    "__init__",
    "__main__",
    "architectures",
    "contest",
    "in_jax",
    "memory_child",
    "paper_figures",
    "paper_way",
    "record",
    "rival",
    "tail_of_networks",
    "tail_of_physics",
    "tail_of_statistics",
    "versions_side_by_side",
    "zoo",
    "zoo_of_libraries",
    "zoo_of_ours",
    "zoo_of_real_sizes",
)
NAMES = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in _NO_CLAIMS)

# The claims of speed that hold on any device, for one command:
# `python -m benchmarks speed --quick --device cuda`.
GROUPS = {
    "speed": (
        "plans_beat_the_best_chunk_by_hand",
        "first_calls_pay_for_themselves",
        "a_budget_costs_less_than_keeping_it_by_hand",
        "finite_differences_cost_their_evaluations",
        "streams_stay_flat",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"one or more of: {', '.join([*GROUPS, *NAMES])} (default: all)"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda; those that can only run on the cpu are left out")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, smaller functions")
    options = parser.parse_args()
    chosen = [name for given in options.names for name in GROUPS.get(given, (given,))] or NAMES
    unknown = sorted(set(chosen) - set(NAMES))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    for name in chosen:
        module = importlib.import_module(f"benchmarks.{name}")
        chooses = "device" in inspect.signature(module.run).parameters
        if options.device != "cpu" and not chooses:
            print(f"\n{name}: left out, it runs on the cpu only")
            continue
        print(f"\n{name}: {module.__doc__}")
        rows = module.run(quick=options.quick, **({"device": options.device} if chooses else {}))
        packages = getattr(module, "PACKAGES", ())
        path = save(name, rows, device=options.device, quick=options.quick, packages=packages)
        print(f"saved in {path}")
        if hasattr(module, "draw"):
            module.draw(rows, path.with_suffix(".png"))


main()
