"""What the CPU's memory has left: the machine, every enclosing cgroup, and the rlimits.

psutil reads the machine only (psutil#2100), and the root cgroup alone misses the limit of a
Slurm job, so each ancestor is read, in version 1 and in version 2.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

import psutil

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from chunkjac._memory.readings import Free, Reading

# Linux over-commits: what does not fit ends in SIGKILL, which nothing catches, and other
# processes take memory meanwhile.
_FRACTION = 0.50

# "No limit" is a number near 2^63 in version 1.
_NO_LIMIT_BYTES = 2**60


def free_cpu_memory(root: Path = Path("/")) -> Free:
    """Return what the CPU's memory has left.

    Args:
        root: Where ``/proc`` and ``/sys`` are found; another folder in tests.
    """
    memory = psutil.virtual_memory()
    machine = Reading(memory.available, "psutil.virtual_memory().available", memory.total)
    return Free((machine, *_cgroup_readings(root), *_rlimit_readings(root)), _FRACTION)


@dataclass(frozen=True, slots=True)
class _Group:
    """Hold where one cgroup tells of itself, and by which name its inactive pages stand there."""

    limit: str
    usage: str
    statistics: str
    inactive: str
    shown: str


def _cgroup_readings(root: Path) -> Iterator[Reading]:
    """Yield what each enclosing cgroup leaves."""
    for group in _groups(root, "\n".join(_lines(root / "proc/self/cgroup"))):
        limit_bytes = _number(group.limit)
        if limit_bytes is None or limit_bytes >= _NO_LIMIT_BYTES:
            continue
        usage_bytes = _number(group.usage)
        if usage_bytes is None:
            continue
        name = f"{group.inactive} "
        cached = [int(line.split()[1]) for line in _lines(group.statistics) if line.startswith(name)]
        yield Reading(max(0, limit_bytes - usage_bytes + sum(cached)), group.shown, limit_bytes)


@lru_cache(maxsize=8)
def _groups(root: Path, membership: str) -> tuple[_Group, ...]:
    """Return the groups that a process is in by ``/proc/self/cgroup``, and all that enclose them.

    A process seldom moves, and what it sees mounted hardly ever changes: reading the mounts
    took a third of a millisecond of each call.
    """
    found = []
    for line in membership.splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" and controllers == "":
            limit, usage, inactive = "memory.max", "memory.current", "inactive_file"
            mount, mount_root = _mount(root, r" - cgroup2 ", "/sys/fs/cgroup")
        elif "memory" in controllers.split(","):
            limit, usage, inactive = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
            mount, mount_root = _mount(root, r" - cgroup .*\bmemory\b", "/sys/fs/cgroup/memory")
        else:
            continue
        for folder in _with_ancestors(root / mount.lstrip("/"), path, mount_root):
            shown = f"/{folder.relative_to(root)}/{limit}"
            found.append(_Group(f"{folder}/{limit}", f"{folder}/{usage}", f"{folder}/memory.stat", inactive, shown))
    return tuple(found)


def _mount(root: Path, pattern: str, default: str) -> tuple[str, str]:
    """Return where a cgroup hierarchy is mounted, and which of its groups is mounted there."""
    for line in _lines(root / "proc/self/mountinfo"):
        if re.search(pattern, line):
            fields = line.split()
            return fields[4], fields[3]
    return default, "/"


def _with_ancestors(top: Path, path: str, mount_root: str) -> Iterator[Path]:
    """Yield the folders of a group and of all that enclose it, up to the mount.

    In a container the mount is the container's own group while the path is the host's; then
    the part that they share is dropped, or only the mount itself is there to be read.
    """
    inside = PurePosixPath(path)
    if mount_root != "/" and inside.is_relative_to(mount_root):
        inside = PurePosixPath("/") / inside.relative_to(mount_root)
    for group in (inside, *inside.parents):
        if ".." not in group.parts:
            yield top / str(group).lstrip("/")


def _rlimit_readings(root: Path) -> Iterator[Reading]:
    """Yield what the process's own limits leave."""
    if resource is None:
        return
    soft = {name: resource.getrlimit(getattr(resource, name))[0] for name in ("RLIMIT_AS", "RLIMIT_DATA")}
    if all(soft_bytes == resource.RLIM_INFINITY for soft_bytes in soft.values()):
        return
    status = status_bytes(root)
    for (name, soft_bytes), used in zip(soft.items(), ("VmSize", "VmData")):
        if soft_bytes != resource.RLIM_INFINITY and used in status:
            yield Reading(max(0, soft_bytes - status[used]), f"{name} - {used}", soft_bytes)


def status_bytes(root: Path = Path("/")) -> dict[str, int]:
    """Return the sizes that the system keeps of this process, by name; none if it is no Linux."""
    fields = (line.split(":", 1) for line in _lines(root / "proc/self/status") if line.startswith("Vm"))
    return {name: 1024 * int(size.split()[0]) for name, size in fields}


def _number(path: str) -> int | None:
    """Return the number in a file; ``None`` if there is none ("max")."""
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None


def _lines(path: str | Path) -> list[str]:
    """Return the lines of a file; none if it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY)  # a third of the time that a file object takes
    except OSError:
        return []
    try:
        parts = []
        while part := os.read(descriptor, 65536):
            parts.append(part)
        return b"".join(parts).decode(errors="replace").splitlines()
    except OSError:
        return []
    finally:
        os.close(descriptor)
