"""What is left to take, read from machines that are built in a folder."""

from __future__ import annotations

import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from chunkjac._memory.accelerators import free_accelerator_memory
from chunkjac._memory.cpu import free_cpu_memory
from chunkjac._memory.readings import Free, Reading

GIB = 2**30
MIB = 2**20
AVAILABLE = 1000 * GIB
MACHINE = {"psutil.virtual_memory().available": AVAILABLE}
V1_NO_LIMIT = 2**63 - 4096

V2_MOUNT = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
V1_MOUNTS = """\
34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
"""


@pytest.fixture(autouse=True)
def large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have so much memory that it never binds."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=AVAILABLE, total=2 * AVAILABLE))


def write(root: Path, **files: Any) -> None:
    """Write files below a root, named by their paths."""
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(f"{content}\n")


def v2_group(root: Path, path: str, limit: int | str, used: int, inactive: int = 0) -> None:
    """Make a group of version 2."""
    stat = f"anon 1\nfile {inactive}\ninactive_anon 77\ninactive_file {inactive}\nactive_file 5"
    write(root, **{f"{path}/memory.max": limit, f"{path}/memory.current": used, f"{path}/memory.stat": stat})


def v1_group(root: Path, path: str, limit: int, used: int, inactive: int = 0) -> None:
    """Make a group of version 1, whose own pages are fewer than its total."""
    stat = f"inactive_file 3\ntotal_inactive_anon 77\ntotal_inactive_file {inactive}"
    files = {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used, "memory.stat": stat}
    write(root, **{f"{path}/{name}": content for name, content in files.items()})


def process(root: Path, cgroup: str, mountinfo: str) -> None:
    """Say which groups the process is in, and where they are mounted."""
    write(root, **{"proc/self/cgroup": cgroup, "proc/self/mountinfo": mountinfo})


def readings(root: Path) -> dict[str, int]:
    """Return what was read, by source."""
    found = free_cpu_memory(root).readings
    assert len({reading.source for reading in found}) == len(found)
    return {reading.source: reading.n_bytes for reading in found}


def test_where_nothing_can_be_read_only_the_machine_counts(tmp_path: Path) -> None:
    free = free_cpu_memory(tmp_path)
    assert free.readings == (Reading(AVAILABLE, "psutil.virtual_memory().available"),)
    assert free.default_bytes == AVAILABLE // 2


def test_version_2_reads_every_ancestor(tmp_path: Path) -> None:
    process(tmp_path, "0::/a/b/c", V2_MOUNT)
    v2_group(tmp_path, "sys/fs/cgroup/a", "max", used=30 * GIB)
    v2_group(tmp_path, "sys/fs/cgroup/a/b", 16 * GIB, used=10 * GIB, inactive=2 * GIB)
    v2_group(tmp_path, "sys/fs/cgroup/a/b/c", "max", used=1 * GIB)
    assert readings(tmp_path) == MACHINE | {"/sys/fs/cgroup/a/b/memory.max": 8 * GIB}
    free = free_cpu_memory(tmp_path)
    assert free.least.source == "/sys/fs/cgroup/a/b/memory.max"
    assert free.default_bytes == 4 * GIB


def test_each_limit_is_a_reading_and_the_least_binds(tmp_path: Path) -> None:
    process(tmp_path, "0::/a/b", V2_MOUNT)
    v2_group(tmp_path, "sys/fs/cgroup/a", 8 * GIB, used=7 * GIB)
    v2_group(tmp_path, "sys/fs/cgroup/a/b", 4 * GIB, used=1 * GIB)
    found = {"/sys/fs/cgroup/a/memory.max": 1 * GIB, "/sys/fs/cgroup/a/b/memory.max": 3 * GIB}
    assert readings(tmp_path) == MACHINE | found
    assert free_cpu_memory(tmp_path).least.n_bytes == 1 * GIB


def test_a_group_over_its_limit_leaves_nothing(tmp_path: Path) -> None:
    process(tmp_path, "0::/a", V2_MOUNT)
    v2_group(tmp_path, "sys/fs/cgroup/a", 1 * GIB, used=2 * GIB)
    free = free_cpu_memory(tmp_path)
    assert free.least.n_bytes == 0
    assert free.default_bytes == 1


def test_a_group_without_a_stat_file_has_no_inactive_pages(tmp_path: Path) -> None:
    process(tmp_path, "0::/a", V2_MOUNT)
    write(tmp_path, **{"sys/fs/cgroup/a/memory.max": 3 * GIB, "sys/fs/cgroup/a/memory.current": 1 * GIB})
    assert readings(tmp_path) == MACHINE | {"/sys/fs/cgroup/a/memory.max": 2 * GIB}


def test_a_container_of_version_2_is_its_own_root(tmp_path: Path) -> None:
    process(tmp_path, "0::/", V2_MOUNT)
    v2_group(tmp_path, "sys/fs/cgroup", 2 * GIB, used=1 * GIB)
    assert readings(tmp_path) == MACHINE | {"/sys/fs/cgroup/memory.max": 1 * GIB}


def test_a_path_outside_the_namespace_reads_what_is_mounted(tmp_path: Path) -> None:
    process(tmp_path, "0::/../sibling", V2_MOUNT)
    v2_group(tmp_path, "sys/fs/cgroup", 2 * GIB, used=1 * GIB)
    v2_group(tmp_path, "sys/fs/sibling", 1 * GIB, used=1 * GIB)  # not there in truth
    assert readings(tmp_path) == MACHINE | {"/sys/fs/cgroup/memory.max": 1 * GIB}


def test_version_1_reads_every_ancestor_and_knows_no_limit(tmp_path: Path) -> None:
    process(tmp_path, "5:cpuset:/elsewhere\n4:memory:/a/b\n1:name=systemd:/", V1_MOUNTS)
    v1_group(tmp_path, "sys/fs/cgroup/memory", V1_NO_LIMIT, used=30 * GIB)
    v1_group(tmp_path, "sys/fs/cgroup/memory/a", 16 * GIB, used=10 * GIB, inactive=2 * GIB)
    v1_group(tmp_path, "sys/fs/cgroup/memory/a/b", V1_NO_LIMIT, used=1 * GIB)
    assert readings(tmp_path) == MACHINE | {"/sys/fs/cgroup/memory/a/memory.limit_in_bytes": 8 * GIB}


def test_controllers_that_share_a_mount_are_found(tmp_path: Path) -> None:
    mount = "35 31 0:32 / /cgroups/both rw - cgroup cgroup rw,cpu,memory\n"
    process(tmp_path, "4:cpu,memory:/a", mount)
    v1_group(tmp_path, "cgroups/both/a", 2 * GIB, used=1 * GIB)
    assert readings(tmp_path) == MACHINE | {"/cgroups/both/a/memory.limit_in_bytes": 1 * GIB}


@pytest.mark.parametrize(
    ("path", "folder"), [("/docker/0a1b", ""), ("/docker/0a1b/child", "/child"), ("/other/place", "")]
)
def test_a_docker_container_of_version_1_sees_the_path_of_its_host(path: str, folder: str, tmp_path: Path) -> None:
    mount = "35 31 0:32 /docker/0a1b /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
    process(tmp_path, f"4:memory:{path}", mount)
    v1_group(tmp_path, f"sys/fs/cgroup/memory{folder}", 2 * GIB, used=1 * GIB)
    assert readings(tmp_path) == MACHINE | {f"/sys/fs/cgroup/memory{folder}/memory.limit_in_bytes": 1 * GIB}


def test_slurm_limits_the_job_and_not_the_step_of_version_1(tmp_path: Path) -> None:
    process(tmp_path, "4:memory:/slurm/uid_1000/job_42/step_0/task_0", V1_MOUNTS)
    top = "sys/fs/cgroup/memory/slurm"
    for path in ("", "/uid_1000", "/uid_1000/job_42/step_0", "/uid_1000/job_42/step_0/task_0"):
        v1_group(tmp_path, f"{top}{path}", V1_NO_LIMIT, used=3 * GIB)
    v1_group(tmp_path, f"{top}/uid_1000/job_42", 4 * GIB, used=3 * GIB)
    assert readings(tmp_path) == MACHINE | {f"/{top}/uid_1000/job_42/memory.limit_in_bytes": 1 * GIB}


def test_slurm_limits_the_job_and_not_the_step_of_version_2(tmp_path: Path) -> None:
    job = "/system.slice/slurmstepd.scope/job_42"
    process(tmp_path, f"0::{job}/step_0/user/task_0", V2_MOUNT)
    for path in ("", "/step_0", "/step_0/user", "/step_0/user/task_0"):
        v2_group(tmp_path, f"sys/fs/cgroup{job}{path}", 4 * GIB if path == "" else "max", used=3 * GIB)
    assert readings(tmp_path) == MACHINE | {f"/sys/fs/cgroup{job}/memory.max": 1 * GIB}


def test_a_hybrid_machine_has_memory_in_version_1_only(tmp_path: Path) -> None:
    unified = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    process(tmp_path, "4:memory:/a\n0::/a", V1_MOUNTS + unified)
    v1_group(tmp_path, "sys/fs/cgroup/memory/a", 2 * GIB, used=1 * GIB)
    write(tmp_path, **{"sys/fs/cgroup/unified/a/cgroup.procs": 1})
    assert readings(tmp_path) == MACHINE | {"/sys/fs/cgroup/memory/a/memory.limit_in_bytes": 1 * GIB}


def test_without_mountinfo_the_usual_places_are_read(tmp_path: Path) -> None:
    write(tmp_path, **{"proc/self/cgroup": "4:memory:/a\n0::/b"})
    v1_group(tmp_path, "sys/fs/cgroup/memory/a", 2 * GIB, used=1 * GIB)
    v2_group(tmp_path, "sys/fs/cgroup/b", 4 * GIB, used=1 * GIB)
    assert readings(tmp_path) == MACHINE | {
        "/sys/fs/cgroup/memory/a/memory.limit_in_bytes": 1 * GIB,
        "/sys/fs/cgroup/b/memory.max": 3 * GIB,
    }


def test_limits_of_the_process_itself_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {resource.RLIMIT_AS: 8 * GIB, resource.RLIMIT_DATA: 1 * GIB}
    monkeypatch.setattr("resource.getrlimit", lambda which: (limits[which], resource.RLIM_INFINITY))
    write(tmp_path, **{"proc/self/status": f"Name:\tpython\nVmSize:\t{5 * MIB} kB\nVmData:\t{2 * MIB} kB"})
    assert readings(tmp_path) == MACHINE | {"RLIMIT_AS - VmSize": 3 * GIB, "RLIMIT_DATA - VmData": 0}


class FakeCuda:
    """Answer what a caching allocator's module would."""

    def __init__(self, *, free: int, total: int, reserved: int, active: int) -> None:
        self.mem_get_info = lambda device: (free, total)
        self.memory_stats = lambda device: {"reserved_bytes.all.current": reserved, "active_bytes.all.current": active}


@pytest.mark.parametrize("fraction", [None, 1.0])
def test_an_accelerator_leaves_what_is_free_and_its_unused_cache(fraction: float | None) -> None:
    backend = FakeCuda(free=20 * GIB, total=80 * GIB, reserved=10 * GIB, active=6 * GIB)
    if fraction is not None:
        backend.get_per_process_memory_fraction = lambda device: fraction  # type: ignore[attr-defined]
    free = free_accelerator_memory(torch.device("cuda"), backend)
    assert free.least == Reading(24 * GIB, "torch.cuda.mem_get_info + unused cache")
    assert free.default_bytes == int(0.9 * 24 * GIB) - 128 * MIB


def test_a_fraction_of_the_device_may_bind() -> None:
    backend = FakeCuda(free=60 * GIB, total=80 * GIB, reserved=10 * GIB, active=6 * GIB)
    backend.get_per_process_memory_fraction = lambda device: 0.25  # type: ignore[attr-defined]
    free = free_accelerator_memory(torch.device("cuda"), backend)
    # min(60, 0.25 * 80 - 10) + 10 - 6 = 14
    assert free.least == Reading(14 * GIB, "torch.cuda.get_per_process_memory_fraction")
    assert free.default_bytes == int(0.9 * 14 * GIB) - 128 * MIB


def test_beyond_its_fraction_a_process_has_its_unused_cache() -> None:
    backend = FakeCuda(free=60 * GIB, total=80 * GIB, reserved=30 * GIB, active=29 * GIB)
    backend.get_per_process_memory_fraction = lambda device: 0.25  # type: ignore[attr-defined]
    assert free_accelerator_memory(torch.device("cuda"), backend).least.n_bytes == 1 * GIB


def test_an_accelerator_that_was_never_used_has_no_cache() -> None:
    backend = SimpleNamespace(mem_get_info=lambda device: (2 * GIB, 8 * GIB), memory_stats=lambda device: {})
    free = free_accelerator_memory(torch.device("xpu"), backend)
    assert free.readings == (Reading(2 * GIB, "torch.xpu.mem_get_info + unused cache"),)


@pytest.mark.parametrize(("driver_bytes", "left_bytes"), [(4 * GIB, 12 * GIB), (20 * GIB, 0)])
def test_metal_leaves_what_it_recommends(driver_bytes: int, left_bytes: int) -> None:
    backend = SimpleNamespace(recommended_max_memory=lambda: 16 * GIB, driver_allocated_memory=lambda: driver_bytes)
    free = free_accelerator_memory(torch.device("mps"), backend)
    source = "torch.mps.recommended_max_memory - driver_allocated_memory"
    assert free.readings == (Reading(left_bytes, source),)
    assert free.default_bytes == max(1, int(0.6 * left_bytes))


def test_the_reserve_never_takes_all() -> None:
    assert Free((Reading(100 * MIB, "here"),), 0.9, 128 * MIB).default_bytes == 1
