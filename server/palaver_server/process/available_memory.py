"""The memory that this process may use: the limit of its container, or that of the machine."""

import os
from collections.abc import Iterator
from pathlib import Path

_MIN_REQUEST_BYTES = 64 * 1024 * 1024
_MAX_REQUEST_BYTES = 256 * 1024 * 1024
_MAX_RESPONSE_BYTES = 256 * 1024 * 1024
_MIN_RESPONSE_BYTES = 16 * 1024 * 1024


def default_request_bytes(workers: int) -> int:
    """Return the default budget of a worker for requests: a quarter of its part of the memory.

    It has a maximum on large machines too: with more large requests at the same time, calls of
    others wait longer for the event loop.
    """
    part = available_memory() // workers // 4
    return max(_MIN_REQUEST_BYTES, min(part, _MAX_REQUEST_BYTES))


def default_response_bytes(workers: int) -> int:
    """Return the default budget of a worker for responses: a fifth of its part of the memory."""
    part = available_memory() // workers // 5
    return max(_MIN_RESPONSE_BYTES, min(part, _MAX_RESPONSE_BYTES))


def available_memory(root: Path = Path("/")) -> int:
    """Return the bytes of memory that this process may use.

    Args:
        root: Where the file systems of the kernel are mounted.
    """
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min((machine, *_cgroup_limits(root)))


def _cgroup_limits(root: Path) -> Iterator[int]:
    """Yield the limits of this process's control groups and those above them."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers == "":  # version 2
            mount, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            mount, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # In a container, the path may be that of the host, and the mount point is its own group.
        own = mount / path.lstrip("/")
        for directory in (own, *own.parents):
            yield from _limit(directory / name)
            if directory == mount:
                break


def _limit(file: Path) -> Iterator[int]:
    try:
        text = file.read_text().strip()
    except OSError:
        return
    if text.isdecimal():  # else "max"
        yield int(text)
