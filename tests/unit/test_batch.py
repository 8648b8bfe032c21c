"""Batches, apart from any database."""

import asyncio
from collections.abc import Sequence

import pytest

from palaver_server.database.batching import Batcher


class Broken(Exception):
    """What a batch raises."""


def test_what_starts_together_is_done_together_and_each_gets_its_own() -> None:
    batches: list[Sequence[int]] = []

    async def square(numbers: Sequence[int]) -> list[int]:
        batches.append(numbers)
        return [number * number for number in numbers]

    async def main() -> list[int]:
        batcher = Batcher(square, max_size=4)
        return await asyncio.gather(*map(batcher.submit, range(10)))

    assert asyncio.run(main()) == [number * number for number in range(10)]
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_who_comes_singly_waits_for_no_turn_and_who_comes_meanwhile_shares() -> None:
    turns: list[int] = []
    batches: list[Sequence[int]] = []

    async def work(numbers: Sequence[int]) -> list[int]:
        batches.append(numbers)
        await asyncio.sleep(0)
        return list(numbers)

    async def count_turns() -> None:
        while True:
            turns.append(0)
            await asyncio.sleep(0)

    async def main() -> list[int]:
        batcher = Batcher(work, max_size=9)
        await batcher.submit(1)
        counting = asyncio.create_task(count_turns())
        await batcher.submit(2)
        assert len(turns) == 1, "the turn that the work itself takes"
        counting.cancel()
        return await asyncio.gather(*map(batcher.submit, (3, 4, 5)))

    assert asyncio.run(main()) == [3, 4, 5]
    assert batches == [[1], [2], [3], [4, 5]]


def test_who_comes_with_others_shares_with_them_though_the_first_is_done_at_once() -> None:
    batches: list[Sequence[int]] = []

    async def work(numbers: Sequence[int]) -> list[int]:
        batches.append(numbers)
        return list(numbers)

    async def main() -> None:
        batcher = Batcher(work, max_size=9)
        await batcher.submit(1)
        await asyncio.gather(*map(batcher.submit, (2, 3, 4)))

    asyncio.run(main())
    assert batches == [[1], [2], [3, 4]]


def test_who_comes_singly_is_cancelled_and_fails_like_others() -> None:
    entered = asyncio.Event()

    async def work(numbers: Sequence[int]) -> list[int]:
        if numbers == [2]:
            raise Broken
        if numbers == [3]:
            entered.set()
            await asyncio.Event().wait()
        return list(numbers)

    async def main() -> tuple[int | BaseException, ...]:
        batcher = Batcher(work, max_size=9)
        first = await batcher.submit(1)
        (second,) = await asyncio.gather(batcher.submit(2), return_exceptions=True)
        third = asyncio.create_task(batcher.submit(3))
        await entered.wait()
        third.cancel()
        (gone,) = await asyncio.gather(third, return_exceptions=True)
        return first, second, gone, await batcher.submit(4)

    first, second, third, fourth = asyncio.run(main())

    assert (first, fourth) == (1, 4)
    assert isinstance(second, Broken)
    assert isinstance(third, asyncio.CancelledError)


def test_a_failure_is_everybodys() -> None:
    async def fail(_: Sequence[int]) -> list[int]:
        raise Broken

    async def main() -> list[int | BaseException]:
        batcher = Batcher(fail, max_size=9)
        outcomes = await asyncio.gather(
            batcher.submit(1), batcher.submit(2), return_exceptions=True
        )
        return list(outcomes)

    assert [type(outcome) for outcome in asyncio.run(main())] == [Broken, Broken]


@pytest.mark.parametrize("fails", [False, True])
def test_a_caller_that_leaves_is_not_missed(fails: bool) -> None:  # noqa: FBT001
    entered, leave = asyncio.Event(), asyncio.Event()

    async def work(numbers: Sequence[int]) -> list[int]:
        entered.set()
        await leave.wait()
        if fails:
            raise Broken
        return list(numbers)

    async def main() -> tuple[int | BaseException, ...]:
        batcher = Batcher(work, max_size=9)
        gone, stays = (asyncio.create_task(batcher.submit(number)) for number in (1, 2))
        await entered.wait()
        gone.cancel()
        leave.set()
        return tuple(await asyncio.gather(gone, stays, return_exceptions=True))

    gone, stays = asyncio.run(main())

    assert isinstance(gone, asyncio.CancelledError)
    assert isinstance(stays, Broken) if fails else stays == 2


def test_what_nobody_waits_for_any_longer_is_cancelled() -> None:
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def work(_: Sequence[int]) -> list[int]:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return []

    async def main() -> bool:
        batcher = Batcher(work, max_size=9)
        first, second = (asyncio.create_task(batcher.submit(number)) for number in (1, 2))
        await entered.wait()
        first.cancel()
        await asyncio.wait([first])
        went_on = not cancelled.is_set()
        second.cancel()
        await cancelled.wait()
        return went_on

    assert asyncio.run(main())
