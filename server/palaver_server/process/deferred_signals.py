"""Keeps signals from interrupting what must not be left half done."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_INTERRUPTING = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def held_signals() -> Iterator[None]:
    """Has the handlers of SIGTERM and SIGINT run after the block, if one comes in it.

    They may raise, as that of Ctrl-C does, between any two steps: what a step has made, such as
    a process, would be known to nobody. Other threads are never interrupted.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in _INTERRUPTING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for late in came:
        signal.raise_signal(late)
