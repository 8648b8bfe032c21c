"""Fair slots: how many a principal may take, and whose turn is next."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from palaver_server.fair_slots import Consumer, FairSlots, Share
from tests.conftest import Run
from tests.support.concurrency import MAX_WAIT_SECONDS


def taken_in_turn(slots: FairSlots, principals: Sequence[str]) -> Counter[str]:
    """Have principals take all slots that they can, one principal after the other."""
    taken: Counter[str] = Counter()
    for principal in principals:
        while slots.share(Consumer(principal)).try_acquire():
            taken[principal] += 1
    return taken


@pytest.mark.parametrize("greedy", range(1, 6))
def test_fair_slots_leave_some_for_a_further_principal(greedy: int) -> None:
    slots = FairSlots(64)

    taken_in_turn(slots, [f"greedy {number}" for number in range(greedy)])

    assert slots.share(Consumer("modest")).try_acquire()


def test_fair_slots_of_a_principal_are_at_most_half_and_those_left_shrink() -> None:
    assert taken_in_turn(FairSlots(10), "abcd") == {"a": 5, "b": 3, "c": 1, "d": 1}


def test_fair_slots_of_greater_weight_are_more() -> None:
    slots = FairSlots(12)

    share = slots.share(Consumer("a", weight=2))
    assert sum(share.try_acquire() for _ in range(12)) == 8


def test_fair_slots_without_principal_are_all() -> None:
    slots = FairSlots(10)

    assert sum(slots.share(None).try_acquire() for _ in range(12)) == 10


def test_fair_slots_returned_are_not_kept_by_principals_that_took_many() -> None:
    slots = FairSlots(10)
    taken_in_turn(slots, "abcd")

    slots.share(Consumer("a")).release()

    assert not slots.share(Consumer("a")).try_acquire()
    assert slots.share(Consumer("e")).try_acquire()


class Queue:
    """Requests for the only slot, which the principal x has at the beginning."""

    def __init__(self, **options: Any) -> None:
        self.slots = FairSlots(1, **options)
        self.served: list[str] = []
        self._holder = self.slots.share(Consumer("x"))
        self._tasks: list[asyncio.Task[None]] = []
        assert self._holder.try_acquire()

    async def add(self, consumer: Consumer, *, times: int = 1) -> None:
        """Add requests of a principal."""
        for _ in range(times):
            self._tasks.append(asyncio.create_task(self._take(self.slots.share(consumer))))
        await asyncio.sleep(0)

    async def serve(self, times: int, seconds: Callable[[str], float] = lambda _: 0) -> list[str]:
        """Free the slot this many times, after use for a time; return who got it then."""
        del self.served[:]
        for _ in range(times):
            self._holder.charge(seconds(str(self._holder.principal)))
            self._holder.release()
            await asyncio.sleep(0)
        return list(self.served)

    async def end(self) -> None:
        """Cancel the requests that still wait."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    async def _take(self, share: Share) -> None:
        if await share.acquire():
            self._holder = share
            self.served.append(str(share.principal))


def on_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[Run], None]:
    """Run a test on the event loop of the tests."""

    def run_test(run: Run) -> None:
        run(asyncio.wait_for(test(), MAX_WAIT_SECONDS))

    return run_test


@on_loop
async def test_fair_slots_turns_are_in_proportion_to_weights() -> None:
    queue = Queue()
    await queue.add(Consumer("a", weight=3), times=20)
    await queue.add(Consumer("b"), times=20)

    assert Counter(await queue.serve(16)) == {"a": 12, "b": 4}
    await queue.end()


@on_loop
async def test_fair_slots_principal_that_comes_later_has_no_arrears() -> None:
    queue = Queue()
    await queue.add(Consumer("a"), times=20)
    await queue.serve(8)
    await queue.add(Consumer("b"), times=8)

    assert Counter(await queue.serve(8)) == {"a": 4, "b": 4}
    await queue.end()


@on_loop
async def test_fair_slots_charged_by_time_give_equal_times() -> None:
    queue = Queue(is_charged_by_time=True)
    await queue.add(Consumer("slow"), times=40)
    await queue.add(Consumer("fast"), times=40)

    served = await queue.serve(22, lambda name: 1 if name == "slow" else 0.1)

    assert Counter(served)["slow"] <= 3
    await queue.end()


@on_loop
async def test_fair_slots_cancelled_requests_get_no_turn_and_leave_nothing() -> None:
    queue = Queue()
    await queue.add(Consumer("a"), times=2)
    await queue.end()
    await queue.add(Consumer("b"))

    assert await queue.serve(2) == ["b"]
    assert queue.slots.free == 1
    assert not queue.slots.is_contended
    assert queue.slots.share(Consumer("a")).got == queue.slots.now
