"""Signals during a block that must not be interrupted."""

import signal
import threading
from collections.abc import Iterator

import pytest

from palaver_server.process.deferred_signals import deferred_signals

WAYS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture(autouse=True)
def raising_handler() -> Iterator[None]:
    """Let the signals raise, independent of the handlers of the test run."""
    before = {way: signal.signal(way, signal.default_int_handler) for way in WAYS}
    yield
    for way, handler in before.items():
        signal.signal(way, handler)


@pytest.mark.parametrize("way", WAYS)
def test_deferred_signal_interrupts_after_block(way: signal.Signals) -> None:
    steps = []

    def work() -> None:
        with deferred_signals():
            signal.raise_signal(way)
            steps.append("done")

    with pytest.raises(KeyboardInterrupt):
        work()

    assert steps == ["done"]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(way)


def test_deferred_signal_does_not_hide_error_of_block() -> None:
    with pytest.raises(ZeroDivisionError), deferred_signals():
        raise ZeroDivisionError

    assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler


def test_deferred_signals_do_nothing_in_other_threads() -> None:
    steps = []

    def work() -> None:
        with deferred_signals():
            steps.append("done")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert steps == ["done"]
