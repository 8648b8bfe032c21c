"""Control groups of the kernel, which limit the memory of processes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.watching import eventually

_ROOT = Path("/sys/fs/cgroup")


class MemoryGroup:
    """A control group with a limit of memory.

    Args:
        directory: Its directory.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Start processes in the group during the block."""
        self._move(self._directory)
        try:
            yield
        finally:
            self._move(self._directory.parent)

    def _move(self, directory: Path) -> None:
        (directory / "cgroup.procs").write_text(str(os.getpid()))


def _is_removed(directory: Path) -> bool:
    """Remove a group if it has no more processes; return whether it is gone."""
    with suppress(OSError):
        directory.rmdir()
    return not directory.exists()


@contextmanager
def memory_group(max_bytes: int) -> Iterator[MemoryGroup]:
    """Yield a new group with this limit; skip the test where groups cannot be made.

    All processes of the group must be ending at the end of the block.
    """
    is_version_1 = (_ROOT / "memory").is_dir()
    directory = (_ROOT / "memory" if is_version_1 else _ROOT) / f"palaver-test-{os.getpid()}"
    try:
        directory.mkdir()
    except OSError as error:
        pytest.skip(f"control groups cannot be made here: {error}")
    try:
        limit = "memory.limit_in_bytes" if is_version_1 else "memory.max"
        try:
            (directory / limit).write_text(str(max_bytes))
        except OSError as error:
            pytest.skip(f"the memory of control groups cannot be limited here: {error}")
        yield MemoryGroup(directory)
    finally:
        eventually(lambda: _is_removed(directory), "the control group is empty")
