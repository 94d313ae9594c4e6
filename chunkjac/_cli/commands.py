"""The command line: ``chunkjac demo``, ``plan``, ``run``, ``verify`` and ``devices``.

Exit codes: 0 done, 2 wrong usage, 3 does not fit in memory, 1 anything else.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import chunkjac
from chunkjac._cli.files import check_target, import_function, load_input, save_result
from chunkjac._errors import ArgumentError, ArgumentTypeError, ConfigError
from chunkjac._memory import devices_here, free_memory, is_out_of_memory, text_of
from chunkjac._modes import MODES, SCHEME_NAMES
from chunkjac._store import check, remove
from chunkjac._units import format_bytes

_DONE, _FAILED, _USAGE, _DOES_NOT_FIT = 0, 1, 2, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parser().parse_args(argv)
    try:
        options.command(options)
    except KeyboardInterrupt as error:
        return _fail(options, error, "interrupted", _FAILED)
    except (ArgumentError, ArgumentTypeError, ConfigError) as error:
        return _fail(options, error, str(error), _USAGE)
    except Exception as error:
        kind = "" if isinstance(error, chunkjac.ChunkjacError) else f"{type(error).__name__}: "
        return _fail(options, error, f"{kind}{text_of(error)}", _DOES_NOT_FIT if is_out_of_memory(error) else _FAILED)
    return _DONE


def _fail(options: argparse.Namespace, error: BaseException, message: str, code: int) -> int:
    """Say in one paragraph on stderr what went wrong."""
    if options.debug:
        traceback.print_exception(error)
    notes = getattr(error, "__notes__", [])
    paragraph = " ".join(["chunkjac:", message, *(f"({note.removeprefix('chunkjac: ')})" for note in notes)])
    _say(textwrap.fill(" ".join(paragraph.split()), 100, break_long_words=False))
    return code


def _say(text: str) -> None:
    """Write a line to stderr, if there is one: ``print`` would take stdout."""
    if sys.stderr is not None:
        print(text, file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(prog="chunkjac", description="Jacobians under a memory budget.")
    parser.add_argument("--version", action="version", version=f"chunkjac {chunkjac.__version__}")
    parser.add_argument("--debug", action="store_true", help="print tracebacks")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = _add(commands, "demo", _demo, "train a small network, differentiate it and a large one, draw a picture")
    demo.add_argument("--max-memory", default="512MiB", help="the most bytes to hold (default: %(default)s)")
    demo.add_argument("--picture", type=Path, default=Path("demo.png"), help="where to draw (default: %(default)s)")
    demo.add_argument("--seconds", type=float, default=5.0, help="how long to train (default: %(default)s)")

    plan = _add(commands, "plan", _plan, "say how a Jacobian would be computed, and what it would hold")
    _add_problem(plan)

    run = _add(commands, "run", _run, "compute a Jacobian")
    _add_problem(run)
    run.add_argument(
        "--out",
        type=Path,
        required=True,
        help="where to write: a .npy file for one output and one input, a folder for several, a .zarr folder (all of "
        "them while computing, and never held in memory), or a .pt file",
    )
    run.add_argument("--resume", action="store_true", help="go on with what an earlier run has left in --out")
    run.add_argument(
        "--force", action="store_true", help="remove first what an earlier run has left in --out, or a file"
    )
    run.add_argument("--quiet", action="store_true", help="show no progress bar")

    verify = _add(commands, "verify", _verify, "compare a Jacobian in files with its checksums")
    verify.add_argument("path", type=Path, help="what was given as --out; blocks that differ can be computed anew")

    _add(commands, "devices", _devices, "list devices: what is free, what limits it, the default budget")
    return parser


def _add(commands: Any, name: str, command: Callable[..., None], text: str) -> argparse.ArgumentParser:
    """Add a command."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(command=command)
    # Also after the command, where people put it; no default, or it would undo the one before.
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def _add_problem(parser: argparse.ArgumentParser) -> None:
    """Add what plan and run share."""
    parser.add_argument(
        "function", metavar="pkg.mod:func", help="what to differentiate; found in the working directory"
    )
    parser.add_argument(
        "--input", type=Path, action="append", required=True, help="a .npy or .pt file; once for each argument"
    )
    parser.add_argument("--argnums", type=int, action="append", help="argument to differentiate by (default: 0)")
    parser.add_argument("--device", type=_device, help="where to compute; a plan may be for a device that is not here")
    parser.add_argument("--mode", choices=MODES, default="auto")
    parser.add_argument("--scheme", choices=SCHEME_NAMES, default="central", help="for finite differences")
    parser.add_argument("--step", type=float, help="for finite differences")
    parser.add_argument("--max-memory", help='the most bytes to hold: "4GiB", "500MB", "80%%" of what is free')
    parser.add_argument("--chunk-size", type=int, help="exactly this many directions at a time")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _problem(options: argparse.Namespace, command: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command of the library with the function, its inputs and all options put in."""
    function = import_function(options.function)
    planning = command is chunkjac.plan  # for a device that need not be here; a run moves its inputs there
    inputs = [load_input(path, None if planning else options.device) for path in options.input]
    argnums = options.argnums or [0]
    return partial(
        command,
        function,
        *inputs,
        argnums=argnums[0] if len(argnums) == 1 else tuple(argnums),
        mode=options.mode,
        scheme=options.scheme,
        step=options.step,
        max_memory=_whole(options.max_memory),
        chunk_size=options.chunk_size,
        **({"device": options.device} if planning else {}),
    )


def _device(text: str) -> torch.device:
    """Read a device's name."""
    try:
        return torch.device(text)
    except Exception:
        raise argparse.ArgumentTypeError(f"no such device: {text!r}") from None


def _whole(text: str | None) -> int | str | None:
    """Return digits alone as a number of bytes."""
    return int(text) if text is not None and re.fullmatch("-?[0-9]{1,4000}", text) else text


def _show(options: argparse.Namespace, record: chunkjac.Plan | chunkjac.Report) -> None:
    """Print a plan or a report."""
    print(json.dumps(record.to_dict(), indent=2) if options.json else record)


def _demo(options: argparse.Namespace) -> None:
    """Run the demonstration."""
    try:
        from chunkjac._cli.demo import run_demo
    except ModuleNotFoundError as error:
        raise ArgumentError(f"the demo needs {error.name}; install it with pip install 'chunkjac[demo]'.") from error
    run_demo(_whole(options.max_memory), options.picture, options.seconds)


def _plan(options: argparse.Namespace) -> None:
    """Print a plan."""
    _show(options, _problem(options, chunkjac.plan)())


def _run(options: argparse.Namespace) -> None:
    """Compute, save, print the report."""
    compute = partial(_problem(options, chunkjac.jacobian), return_report=True)
    progress = False if options.quiet else None
    if options.out.suffix == ".pt":
        if options.resume:
            raise ArgumentError(
                "--resume goes on with a .npy file, a folder or a .zarr folder, found a .pt file; leave it out."
            )
        check_target(options.out, force=options.force)
        found, report = compute(progress=progress)
        save_result(options.out, found)
    else:
        if options.force and not options.resume:
            remove(options.out)
        _, report = compute(progress=progress, out=options.out, resume=options.resume)
    _show(options, report)
    _say(f"written to {options.out}")


def _verify(options: argparse.Namespace) -> None:
    """Compare blocks with their checksums."""
    damaged, unfinished, n_blocks = check(options.path)
    for span in damaged:
        _say(f"directions {span.start}:{span.stop} are not what was written")
    if damaged or unfinished:
        raise chunkjac.StoreError(
            f"{options.path}: of {n_blocks} blocks {len(damaged)} are damaged and {len(unfinished)} not finished; run "
            "again with --resume to compute them."
        )
    print(f"{options.path}: {n_blocks} blocks, all as they were written")


def _devices(_: argparse.Namespace) -> None:
    """List devices."""
    for device in devices_here():
        free = free_memory(device)
        print(device)
        rows = [
            (format_bytes(reading.n_bytes), f"free of {format_bytes(reading.limit_bytes or 0)}", reading.source)
            for reading in free.readings
        ]
        reserve = f" less {format_bytes(free.reserve_bytes)}" if free.reserve_bytes else ""
        rows.append((format_bytes(free.default_bytes), "default budget", f"{free.fraction:.0%} of the least{reserve}"))
        for amount, what, source in rows:
            print(f"  {amount:>10}  {what:<18}  {source}")
