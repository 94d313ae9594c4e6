"""What is installed is what is here: a wheel holds the whole package, and works where nothing of the sources is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
BUILT_FROM = ("chunkjac", "pyproject.toml", "README.md", "LICENSE")

PROGRAM = """
import torch
import chunkjac

J = chunkjac.jacobian(lambda x: x**2, torch.arange(3.0), max_memory="1MiB")
assert J.tolist() == [[0, 0, 0], [0, 2, 0], [0, 0, 4]], J
print(chunkjac.__file__)
"""


def _run(*command: str | Path) -> str:
    """Run a command that sees nothing of the working directory, and return what it says."""
    found = subprocess.run([*map(str, command)], cwd="/", capture_output=True, text=True, timeout=300)
    assert not found.returncode, found.stdout + found.stderr
    return found.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel of a copy, so that nothing an earlier build has left gets in."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in BUILT_FROM:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    # What builds it is in the extra `test`, so that nothing is fetched.
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    _run(sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", folder, folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a new environment, which sees torch and all else where the tests see them."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder)
    python = folder / "bin" / "python"
    _run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet", wheel)
    (site,) = folder.glob("lib/python*/site-packages")
    # Of a folder that is named here no .pth file is read: that would lead to an editable chunkjac.
    (site / "others.pth").write_text("\n".join({sysconfig.get_path(name) for name in ("purelib", "platlib")}))
    return folder


def test_the_wheel_holds_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    data = {"py.typed", "_modes/known_nodes.json"}
    sources = {*(ROOT / "chunkjac").rglob("*.py"), *(ROOT / "chunkjac" / name for name in data)}
    names = {path.relative_to(ROOT).as_posix() for path in sources}
    assert {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name} == names


def test_what_is_installed_computes_a_jacobian(fresh: Path) -> None:
    file = _run(fresh / "bin" / "python", "-I", "-c", PROGRAM).strip()
    assert os.path.realpath(file).startswith(os.path.realpath(fresh))


def test_the_command_is_installed(fresh: Path) -> None:
    assert "default budget" in _run(fresh / "bin" / "chunkjac", "devices")
