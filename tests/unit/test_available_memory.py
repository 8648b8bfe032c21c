"""Available memory: the smallest limit of the control groups and the machine."""

import os
from pathlib import Path

from palaver_server.process.available_memory import (
    available_memory,
    default_request_bytes,
    default_response_bytes,
)

MIB = 1024 * 1024
MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_available_memory_without_control_groups_is_that_of_the_machine(tmp_path: Path) -> None:
    assert available_memory(tmp_path) == MACHINE


def test_available_memory_is_limit_of_a_version_2_group(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/pod/palaver\n")
    write(tmp_path / "sys/fs/cgroup/pod/palaver/memory.max", "max\n")
    write(tmp_path / "sys/fs/cgroup/pod/memory.max", f"{600 * MIB}\n")

    assert available_memory(tmp_path) == 600 * MIB


def test_available_memory_is_limit_of_a_version_1_group(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "9:cpu:/\n4:memory:/docker/host-path\n")
    write(tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes", f"{600 * MIB}\n")

    assert available_memory(tmp_path) == 600 * MIB


def test_available_memory_unlimited_version_1_group_is_that_of_the_machine(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "4:memory:/\n")
    write(tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")

    assert available_memory(tmp_path) == MACHINE


def test_available_memory_default_for_requests_has_bounds() -> None:
    assert default_request_bytes(1) == min(256 * MIB, MACHINE // 4)
    assert default_request_bytes(10_000) == 64 * MIB


def test_available_memory_default_for_responses_has_bounds() -> None:
    assert default_response_bytes(1) == min(256 * MIB, MACHINE // 5)
    assert default_response_bytes(10_000) == 16 * MIB
