"""What the command line reads and writes."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_map

from chunkjac._errors import ArgumentError


def import_function(name: str) -> Callable[..., Any]:
    """Return the function that ``pkg.mod:func`` names; the working directory is searched first.

    Raises:
        ArgumentError: There is no such module, or nothing callable of that name in it.
    """
    module_name, colon, path = name.partition(":")
    if not (module_name and colon and path):
        raise ArgumentError(f"function must be given as pkg.mod:func, found {name!r}.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except TypeError as error:  # a relative name
        raise ArgumentError(f"function must be given as pkg.mod:func, found {name!r}: {error}.") from error
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it imports is not
        raise ArgumentError(f"function names the module {module_name!r}, which cannot be found.") from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise ArgumentError(f"function names {path!r}, which the module {module_name!r} does not have.")
        found = getattr(found, part)
    if not callable(found):
        raise ArgumentError(f"function must name something callable, found {name} of type {type(found).__name__}.")
    return found


def load_input(path: Path, device: torch.device | None) -> Any:
    """Return what a ``.npy`` or ``.pt`` file holds, on a device.

    Pickled objects are not loaded: ``.pt`` files are read with ``weights_only=True``.

    Raises:
        ArgumentError: The file is missing, of another kind, or cannot be read.
    """
    readers = {".npy": _load_npy, ".pt": _load_pt}
    if path.suffix not in readers:
        raise ArgumentError(f"input must be a .npy or .pt file, found {str(path)!r}.")
    try:
        value = readers[path.suffix](path)
        return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, torch.Tensor) else leaf, value)
    except FileNotFoundError:
        raise ArgumentError(f"input {str(path)!r} does not exist.") from None
    except Exception as error:
        place = "" if device is None else f" to {device}"
        raise ArgumentError(f"input {str(path)!r} cannot be read{place}: {error}") from error


def _load_npy(path: Path) -> torch.Tensor:
    """Read an array; NumPy is needed for this only."""
    import numpy as np

    return torch.from_numpy(np.load(path, allow_pickle=False))


def _load_pt(path: Path) -> Any:
    """Read tensors, and containers of them."""
    return torch.load(path, map_location="cpu", weights_only=True)


def check_target(path: Path, *, force: bool) -> None:
    """Refuse a ``.pt`` file that could not be written, before any work.

    Raises:
        ArgumentError: It exists already, or its folder cannot be written to.
    """
    if path.exists() and not force:
        raise ArgumentError(f"out {str(path)!r} exists; give another name, or --force to overwrite it.")
    if os.path.lexists(_part(path)):
        raise ArgumentError(f"{str(_part(path))!r} is in the way, which is written first; move it away.")
    if not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise ArgumentError(f"out must be in a folder that can be written to, found {str(path.parent)!r}.")


def save_result(path: Path, result: Any) -> None:
    """Write a result to a ``.pt`` file, whole or not at all."""
    part = _part(path)
    with part.open("xb") as file:  # never what was there, nor what a link points to
        try:
            torch.save(result, file)
            file.flush()
            part.replace(path)
        except BaseException:
            part.unlink()
            raise


def _part(path: Path) -> Path:
    """Return where a file is written before it has its name."""
    return path.with_name(f"{path.name}.part")
