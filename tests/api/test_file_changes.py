"""The path of a call through the files: how often it changes from one to another.

Readers follow a call through these files, and each change is at least one function call. The limits
are the figures of the code as it is: a change that raises them should be worth it.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import palaver_server
from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import SearchMemoryRequest
from tests.conftest import Run
from tests.support.client import Client, wait_until
from tests.support.searching import KEYWORD

PACKAGE = f"{Path(palaver_server.__file__).parent}/"

SERVICE = "services/memory_service.py"
END = "telemetry/call_log.py"  # the line of the call

# Tasks that run at the same time as the calls.
OTHERS = ("embedding/worker.py", "process/memory_trim.py", "transport/database_health.py")

# A timer of an earlier call may fire during a call: the shortest path counts.
TIMES = 5


class Profiler:
    """The files of the package whose functions run on the event loop, one after the other."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.files: list[str] = []

    def note(self, frame: FrameType, event: str, _argument: Any) -> None:
        """Note a call of a function, or that a coroutine goes on."""
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(PACKAGE):
            file = path.removeprefix(PACKAGE)
            if file not in OTHERS and self.files[-1:] != [file]:
                self.files.append(file)

    def shortest(self, call: Callable[[], object]) -> list[str]:
        """Make a call several times; return the files of its shortest path."""
        self._of(call)  # connects, and prepares statements
        return min((self._of(call) for _ in range(TIMES)), key=len)

    def _of(self, call: Callable[[], object]) -> list[str]:
        self.files = []
        self._set_profiler(self.note)
        try:
            call()
            wait_until(lambda: END in self.files[self.files.index(SERVICE) :])
        finally:
            self._set_profiler(None)
        return self.files

    def _set_profiler(self, profiler: Callable[[FrameType, str, Any], None] | None) -> None:
        async def set_profiler() -> None:
            sys.setprofile(profiler)  # of the event loop's thread

        self._run(set_profiler())


def message(content: str) -> Message:
    return Message(role="user", content=content)


def changes(files: list[str]) -> int:
    return len(files) - 1


def test_add_memory_changes_between_files_few_times(palaver: Client, run: Run) -> None:
    path = Profiler(run).shortest(lambda: palaver.add_memory("s", [message("hello blue world")]))

    assert changes(path) <= 46, " ".join(path)


def test_search_memory_changes_between_files_few_times(palaver: Client, run: Run) -> None:
    palaver.add_memory("s", [message("hello blue world") for _ in range(4)])
    request = SearchMemoryRequest(text="blue", mode=KEYWORD)

    path = Profiler(run).shortest(lambda: palaver.memory.SearchMemory(request))

    assert len(palaver.memory.SearchMemory(request).results) == 4
    assert changes(path) <= 78, " ".join(path)
