"""Random functions in random ways against plain autograd in float64, and faults that tests must notice.

The long test tries the same functions each time, as many as two minutes take. To search on, run
``python -m tests.fuzz --minutes 60 --seed N`` with a number that nobody has tried (the time, say), or give the test
``FUZZ_MINUTES`` and ``FUZZ_SEED``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.fuzz.cases import N_RUNS, Case, Input, Maker, Step
from tests.fuzz.fuzzer import Fuzzer
from tests.fuzz.shrinking import script, shrunk
from tests.fuzz.truth import Truth, outcome_of
from tests.fuzz.ways import PROGRAMS, Way
from tests.mutants.__main__ import ROOT, broken
from tests.mutants.faults import FAULTS, Fault


def test_some_functions_are_right_in_each_way() -> None:
    fuzzer = Fuzzer()
    fuzzer.run(0, seconds=2, n_cases=4)
    assert not fuzzer.failures
    assert fuzzer.coverage.n_ways > 0


@pytest.mark.long
def test_minutes_of_functions_are_right(tmp_path: Path) -> None:
    fuzzer = Fuzzer(tmp_path)
    seed, minutes = int(os.environ.get("FUZZ_SEED", "1000")), float(os.environ.get("FUZZ_MINUTES", "2"))
    fuzzer.run(seed, seconds=60 * minutes)
    print(fuzzer.coverage)
    assert not fuzzer.failures


def test_a_case_is_the_same_from_the_same_seed() -> None:
    assert Maker(3).case() == Maker(3).case() != Maker(4).case()


CUBE = Case(
    "float64",
    (Input("x0", "plain", 1, (3,)),),
    (0,),
    (Step("cube", "v0", "v0 = x0 ** 3 * S.k", "S.k = 2.0", "S.k = run + 1.0", (3,)),),
    ("v0",),
    "tuple",
)


def test_the_truth_is_the_derivative_by_hand_in_each_run() -> None:
    truth = Truth(CUBE.text, "float64", (0,), N_RUNS)
    names = truth.names("float64")
    for i, (jacobian,) in enumerate(truth.blocks):
        torch.testing.assert_close(jacobian, torch.diag(3 * names["inputs"](i)[0] ** 2 * (i + 1 if i else 2)))


def test_what_is_wrong_is_told_by_run_and_element() -> None:
    truth = Truth(CUBE.text, "float64", (0,), N_RUNS)
    wrong = "for run in range(2):\n    keep(run, 1.001 * torch.func.jacrev(func)(*inputs(run)), None)"
    outcome = outcome_of(truth, "reverse", wrong)
    assert outcome.kind == "wrong"
    assert "run 0" in outcome.told
    assert outcome_of(truth, "reverse", "keep(0, torch.func.jacrev(func)(*inputs(0)), None)").kind == "right"


def test_a_tie_that_is_all_but_there_is_a_kink() -> None:
    step = Step("tie", "v0", "v0 = torch.maximum(x0, S.k)", "S.k = T(1, 3) + 6e-4", shape=(3,))
    case = Case("float64", CUBE.inputs, (0,), (step,), ("v0",), "tuple")
    truth = Truth(case.text, "float64", (0,), 1)
    assert not truth.blocks[0][0].any()
    assert not truth.is_smooth(0)
    assert Truth(CUBE.text, "float64", (0,), 1).is_smooth(0)


WRONG = """class Wrong(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 3 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad"""


def test_a_derivative_that_autograd_has_wrong_is_told_from_ours() -> None:
    step = Step("wrong", "v0", "v0 = Wrong.apply(x0)", WRONG, shape=(3,))
    truth = Truth(Case("float64", CUBE.inputs, (0,), (step,), ("v0",), "tuple").text, "float64", (0,), 1)
    assert truth.torch_is_wrong
    torch.testing.assert_close(truth.blocks[0][0], 3 * torch.eye(3, dtype=torch.float64), rtol=1e-6, atol=1e-8)


def test_a_failure_becomes_a_script_of_what_is_needed_for_it(tmp_path: Path) -> None:
    steps = (
        Step("sine", "v0", "v0 = x0.sin()", shape=(3,)),
        Step("fault", "v1", "v1 = v0.view(3, 1)\nif S.k:\n    raise KeyError('fault')", "S.k = 0", "S.k = 1", (3, 1)),
        Step("cosine", "v2", "v2 = v0.cos()", shape=(3,)),
    )
    case = Case("float64", CUBE.inputs, (0,), steps, ("v2", "v1"), "dict")
    # The truth does not fail: it is what a fault of ours would look like.
    way = Way("jacobian", "reverse", {"chunk_size": 2}, patches=PROGRAMS)

    def fails(case: Case, way: Way) -> bool:
        Truth(case.text, case.dtype, case.argnums, 1)  # it runs
        return "KeyError" in case.text

    small, plain = shrunk(case, way, fails, limit_s=20)
    assert [step.name for step in small.steps] == ["fault"]
    assert not plain.options
    assert not plain.patches
    file = tmp_path / "case.py"
    file.write_text(script(small, plain, "a fault"))
    done = subprocess.run([sys.executable, str(file)], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True)
    assert (done.returncode, done.stdout.decode().split()[:1]) == (0, ["right"]), done.stderr.decode()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_each_fault_replaces_what_is_there(fault: Fault) -> None:
    text = (ROOT / "chunkjac" / fault.file).read_text()
    assert broken(fault, text) != text
    assert all((ROOT / file).exists() for file in fault.selection[0].split())


@pytest.mark.long
def test_faults_are_noticed() -> None:
    done = subprocess.run([sys.executable, "-m", "tests.mutants"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
