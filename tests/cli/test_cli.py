"""The command line: what it prints, what it writes, how it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import chunkjac as cj
from chunkjac._cli.commands import main

MODULE = """
import torch

MATRIX = torch.arange(12.0).reshape(4, 3)

def linear(x):
    return MATRIX @ x

def tree(x):
    return {"square": x**2, "sum": x.sum()}

def product(a, b):
    return a * b

def of_dict(params):
    return params["w"] * params["b"]

def broken(x):
    raise ValueError("mine")

number = 3
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a module and inputs."""
    (tmp_path / "functions.py").write_text(MODULE)
    np.save(tmp_path / "x.npy", np.array([1.0, 2.0, 3.0], dtype=np.float32))
    torch.save(torch.tensor([1.0, -1.0, 0.5]), tmp_path / "y.pt")
    torch.save({"w": torch.tensor([2.0]), "b": torch.tensor([5.0])}, tmp_path / "params.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "functions", raising=False)
    return tmp_path


def test_plan_prints_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "functions:linear", "--input", "x.npy", "--max-memory", "1MiB"]) == 0
    shown = capsys.readouterr().out
    assert "4 x 3" in shown
    assert "1 MiB, max_memory='1MiB'" in shown
    assert "|....." in shown
    assert "R result 48 B" in shown


def test_plan_is_for_a_device_that_is_not_here(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["plan", "functions:linear", "--input", "x.npy", "--device", "cuda"]
    assert main([*options, "--max-memory", "1GiB"]) == 0
    assert "Plan on cuda:0" in capsys.readouterr().out
    if not torch.cuda.is_available():
        assert main(options) == 2
        assert "max_memory must be given in bytes for cuda:0" in capsys.readouterr().err


def test_plan_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "functions:linear", "--input", "x.npy", "--json", "--max-memory", "1000000"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["n_outputs"], plan["n_inputs"], plan["budget_bytes"]) == (4, 3, 10**6)


@pytest.mark.parametrize("mode", ["auto", "reverse", "forward", "finite-difference"])
def test_run_writes_what_numpy_reads(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "functions:linear", "--input", "x.npy", "--out", "J.npy", "--max-memory", "2GiB"]
    step = ["--step", "0.5"] if mode == "finite-difference" else []
    assert main([*arguments, "--mode", mode, *step]) == 0
    assert np.allclose(np.load("J.npy"), np.arange(12.0).reshape(4, 3), atol=1e-5)
    shown = capsys.readouterr()
    assert "measured peak" in shown.out
    assert "written to J.npy" in shown.err
    assert sorted(path.name for path in Path().glob("J*")) == ["J.npy", "J.npy.journal", "J.npy.plan.json"]
    assert main(["verify", "J.npy"]) == 0
    assert "all as they were written" in capsys.readouterr().out


def test_run_takes_several_inputs_and_argnums(folder: Path) -> None:
    arguments = ["run", "functions:product", "--input", "x.npy", "--input", "y.pt", "--out", "J.npy", "--argnums", "1"]
    assert main(arguments) == 0
    assert np.array_equal(np.load("J.npy"), np.diag([1.0, 2.0, 3.0]))


def test_a_tree_goes_to_a_pt_file_or_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    run = ["run", "functions:tree", "--input", "x.npy", "--out"]
    assert main([*run, "J.pt"]) == 0
    assert "written to J.pt" in capsys.readouterr().err
    assert main([*run, "J"]) == 0
    for found in (torch.load("J.pt", weights_only=True), cj.open("J")):
        assert torch.equal(found["square"], torch.diag(torch.tensor([2.0, 4.0, 6.0])))
        assert torch.equal(found["sum"], torch.ones(3))
    assert main([*run, "J.npy"]) == 2
    assert "give a folder, such as out='J'" in " ".join(capsys.readouterr().err.split())


def test_a_dictionary_of_tensors_is_an_input() -> None:
    assert main(["run", "functions:of_dict", "--input", "params.pt", "--out", "J.pt"]) == 0
    found = torch.load("J.pt", weights_only=True)
    assert (found["w"].item(), found["b"].item()) == (5.0, 2.0)


def test_an_existing_file_is_not_overwritten_without_force(capsys: pytest.CaptureFixture[str]) -> None:
    Path("J.npy").write_text("precious")
    arguments = ["run", "functions:linear", "--input", "x.npy", "--out", "J.npy"]
    assert main(arguments) == 2
    assert "exists" in capsys.readouterr().err
    assert Path("J.npy").read_text() == "precious"
    assert main([*arguments, "--force"]) == 0
    assert np.load("J.npy").shape == (4, 3)


def test_force_makes_a_folder_anew_and_leaves_one_of_other_files_alone(capsys: pytest.CaptureFixture[str]) -> None:
    run = ["run", "functions:tree", "--input", "x.npy", "--out", "J"]
    for options in ([], ["--mode", "reverse", "--force"]):
        assert main([*run, *options]) == 0
        assert torch.equal(cj.open("J")["sum"], torch.ones(3))
    Path("J/mine").touch()
    names = sorted(Path("J").iterdir())
    capsys.readouterr()
    assert main([*run, "--force"]) == 1
    assert "'J/mine' was not made by chunkjac" in capsys.readouterr().err
    assert sorted(Path("J").iterdir()) == names
    assert torch.equal(cj.open("J")["sum"], torch.ones(3))


def test_a_failed_run_leaves_no_file() -> None:
    assert main(["run", "functions:broken", "--input", "x.npy", "--out", "J.npy"]) == 1
    assert not list(Path().glob("J*"))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["plan", "functions:linear", "--input", "x.npy", "--max-memory", "40"], 3, "max_memory of [0-9]+ bytes"),
        (["plan", "functions:linear", "--input", "x.npy", "--max-memory", "4Gb"], 2, "ambiguous"),
        (["plan", "functions:linear", "--input", "x.npy", "--max-memory", "-5"], 2, "at least 1"),
        (["plan", "functions:linear", "--input", "x.npy", "--chunk-size", "0"], 2, "chunk_size"),
        (["plan", "functions:linear", "--input", "none.npy"], 2, "none.npy.* does not exist"),
        (["plan", "functions:linear", "--input", "x.txt"], 2, r"\.npy or \.pt"),
        (["plan", "functions:linear", "--input", "functions.pt"], 2, "does not exist"),
        (["plan", "functions", "--input", "x.npy"], 2, "pkg.mod:func"),
        (["plan", "nowhere:linear", "--input", "x.npy"], 2, "nowhere.*cannot be found"),
        (["plan", "functions:nothing", "--input", "x.npy"], 2, "does not have"),
        (["plan", "functions:number", "--input", "x.npy"], 2, "callable"),
        (["plan", "functions:broken", "--input", "x.npy"], 1, "ValueError: mine"),
        (["plan", "..functions:linear", "--input", "x.npy"], 2, "pkg.mod:func"),
        (["plan", "functions:linear", "--input", "x.npy", "--device", "meta"], 2, "device must be of type cpu"),
        (["plan", "functions:linear", "--input", "x.npy", "--max-memory", "²"], 2, "max_memory cannot be read"),
        (["run", "functions:linear", "--input", "x.npy", "--out", "J.csv"], 2, r"\.npy file, a folder"),
        (["run", "functions:linear", "--input", "x.npy", "--out", "none/J.npy"], 2, "folder"),
    ],
)
def test_failures_are_one_paragraph_with_a_code(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    if arguments[-1] == "-5":
        arguments = [*arguments[:-2], "--max-memory=-5"]
    assert main(arguments) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.search(message, " ".join(shown.err.split()))
    assert shown.err.startswith("chunkjac: ")
    assert "Traceback" not in shown.err
    assert "\n\n" not in shown.err


@pytest.mark.parametrize("place", ["before", "after"])
def test_debug_prints_the_traceback(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", "functions:broken", "--input", "x.npy"]
    assert main(["--debug", *command] if place == "before" else [*command, "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_run_goes_on_where_one_has_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    run = ["run", "functions:linear", "--input", "x.npy", "--out", "J.npy", "--chunk-size", "1"]
    assert main([*run, "--mode", "reverse", "--resume"]) == 0
    assert main([*run, "--resume", "--json"]) == 0
    assert '"chunk_sizes": []' in capsys.readouterr().out
    data = bytearray(Path("J.npy").read_bytes())
    data[-1] ^= 1
    Path("J.npy").write_bytes(data)
    assert main(["verify", "J.npy"]) == 1
    shown = " ".join(capsys.readouterr().err.split())
    assert "directions 3:4 are not what was written" in shown
    assert "of 4 blocks 1 are damaged" in shown
    assert main([*run, "--resume"]) == 0
    assert main(["verify", "J.npy"]) == 0
    assert np.allclose(np.load("J.npy"), np.arange(12.0).reshape(4, 3))
    assert main([*run, "--mode", "forward", "--resume"]) == 1
    assert "mode was 'reverse', is 'forward'" in " ".join(capsys.readouterr().err.split())


def test_only_files_of_blocks_are_gone_on_with(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "functions:linear", "--input", "x.npy", "--out", "J.pt", "--resume"]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(["verify", "J.npy"]) == 1
    assert "chunkjac has not written" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["plan"],
        ["plan", "functions:linear"],
        ["plan", "functions:linear", "--input", "x.npy", "--device", "bogus"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: chunkjac" in capsys.readouterr().err


def test_pickles_are_not_loaded() -> None:
    torch.save(main, "evil.pt")
    assert main(["plan", "functions:linear", "--input", "evil.pt"]) == 2
    np.save("evil.npy", np.array([print], dtype=object), allow_pickle=True)
    assert main(["plan", "functions:linear", "--input", "evil.npy"]) == 2


def test_devices_are_listed_with_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("cpu\n")
    assert "psutil.virtual_memory().available" in shown
    assert "default budget" in shown


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "chunkjac", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"chunkjac {cj.__version__}\n"


def test_the_demo_draws_its_picture(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a network of the same layers and an eighth of the width."""
    from chunkjac._cli import demo

    class Narrow(torch.nn.Sequential):
        def __init__(self) -> None:
            pool = (torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(0))
            super().__init__(torch.nn.Conv2d(3, 8, 7, 8), demo.ResidualBlock(8, 8, 1), *pool)

    monkeypatch.setattr(demo, "ResNet18Features", Narrow)
    assert main(["demo", "--seconds", "0.5", "--picture", "picture.png", "--max-memory", "64MiB"]) == 0
    shown = capsys.readouterr().out
    assert Path("picture.png").stat().st_size > 10_000
    assert "64 MiB, max_memory='64MiB'" in shown
    assert "J @ v differs from the jvp by" in shown


def test_the_large_network_of_the_demo_is_a_resnet_18() -> None:
    from chunkjac._cli.demo import ResNet18Features

    network = ResNet18Features()
    assert sum(parameter.numel() for parameter in network.parameters()) == 11_176_512  # 11,689,512 less the last layer
    assert network.eval()(torch.zeros(1, 3, 96, 96)).shape == (512,)


def test_without_stderr_files_are_written_and_stdout_stays_clean(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["run", "functions:linear", "--input", "x.npy", "--out", "J.npy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["mode"]
    assert np.load("J.npy").shape == (4, 3)
    assert main(["plan", "functions:nothing", "--input", "x.npy"]) == 2
    assert capsys.readouterr().out == ""


def test_a_budget_of_more_digits_than_python_reads_is_one() -> None:
    assert main(["plan", "functions:linear", "--input", "x.npy", "--max-memory", "9" * 5000]) == 0
