"""List and run the benchmarks: ``python -m benchmarks [--quick] [NAME ...]``."""

from __future__ import annotations

import argparse
import importlib
import inspect
from pathlib import Path

from benchmarks.record import save

_NO_CLAIMS = ("__init__", "__main__", "architectures", "memory_child", "paper_figures", "paper_way", "record")
NAMES = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in _NO_CLAIMS)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or more of: {', '.join(NAMES)} (default: all)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; those that can only run on the cpu are left out")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, smaller functions")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(NAMES))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    for name in options.names or NAMES:
        module = importlib.import_module(f"benchmarks.{name}")
        chooses = "device" in inspect.signature(module.run).parameters
        if options.device != "cpu" and not chooses:
            print(f"\n{name}: left out, it runs on the cpu only")
            continue
        print(f"\n{name}: {module.__doc__}")
        rows = module.run(quick=options.quick, **({"device": options.device} if chooses else {}))
        path = save(name, rows, device=options.device, quick=options.quick)
        print(f"saved in {path}")
        if hasattr(module, "draw"):
            module.draw(rows, path.with_suffix(".png"))


main()
