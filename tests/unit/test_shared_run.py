"""SharedRun: work whose progress several callers follow."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import pytest

from palaver_server import shared_run
from palaver_server.shared_run import SharedRun
from tests.conftest import Run
from tests.support.client import wait_until
from tests.support.concurrency import MAX_WAIT_SECONDS

LAST = 3


@pytest.fixture(autouse=True)
def frequent_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report without long pauses."""
    monkeypatch.setattr(shared_run, "_REPORT_INTERVAL_SECONDS", 0.01)


class Work:
    """Work that yields the numbers up to `LAST`, each when the test lets it.

    Attributes:
        runs: How many times it was started.
        reached: The last number of the current run.
        ended: How the current run ended.
    """

    def __init__(self) -> None:
        self.runs = 0
        self.reached = 0
        self.ended = ""
        self._steps = asyncio.Semaphore(0)
        self.error: Exception | None = None

    async def run(self) -> AsyncGenerator[int, None]:
        self.runs += 1
        self.reached, self.ended = 0, ""
        try:
            yield 0
            for number in range(1, LAST + 1):
                await self._steps.acquire()
                self.reached = number
                yield number
            if self.error:
                raise self.error
            self.ended = "finished"
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise

    def step(self, count: int = LAST) -> None:
        """Let the work continue by this many numbers."""
        for _ in range(count):
            self._steps.release()


def on_loop(test: Callable[[Work], Coroutine[Any, Any, None]]) -> Callable[[Run], None]:
    """Run a test on the event loop of the tests."""

    async def with_work() -> None:
        await asyncio.wait_for(test(Work()), MAX_WAIT_SECONDS)

    def run_test(run: Run) -> None:
        run(with_work())

    return run_test


@on_loop
async def test_shared_run_reports_start_and_end(work: Work) -> None:
    reports = SharedRun(work.run).follow()

    first = await anext(reports)
    work.step()

    assert first == 0
    assert [number async for number in reports][-1] == LAST
    assert work.ended == "finished"


@on_loop
async def test_shared_run_caller_that_does_not_read_does_not_stop_it(work: Work) -> None:
    reports = SharedRun(work.run).follow()
    await anext(reports)

    work.step()
    await asyncio.to_thread(wait_until, lambda: work.ended == "finished")

    assert [number async for number in reports] == [LAST]


@on_loop
async def test_shared_run_second_caller_joins(work: Work) -> None:
    shared = SharedRun(work.run)
    first, second = shared.follow(), shared.follow()
    await anext(first)
    work.step(1)
    await asyncio.to_thread(wait_until, lambda: work.reached == 1)

    assert await anext(second) == 1
    work.step()

    assert [number async for number in first][-1] == LAST
    assert [number async for number in second][-1] == LAST
    assert work.runs == 1


@on_loop
async def test_shared_run_ends_when_last_caller_leaves(work: Work) -> None:
    shared = SharedRun(work.run)
    first, second = shared.follow(), shared.follow()
    await anext(first)
    await anext(second)

    await first.aclose()
    assert work.ended == ""
    await second.aclose()

    assert work.ended == "cancelled"
    await anext(third := shared.follow())
    assert work.runs == 2
    await third.aclose()


@on_loop
async def test_shared_run_error_goes_to_all_callers(work: Work) -> None:
    work.error = ValueError()
    shared = SharedRun(work.run)
    callers = [shared.follow() for _ in range(2)]
    for caller in callers:
        await anext(caller)

    work.step()

    for caller in callers:
        with pytest.raises(ValueError):  # noqa: PT011 - it has no text
            _ = [number async for number in caller]
