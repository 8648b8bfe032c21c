"""The batcher, without a database."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import pytest

from palaver_server.database.batching import Batcher

Work = Callable[[str, Sequence[int]], Awaitable[Sequence[int]]]


class Broken(Exception):
    """The error of a batch."""


def submitting(work: Work, *, max_size: int) -> Callable[[int], Coroutine[Any, Any, int]]:
    return partial(Batcher(work, max_size=max_size).submit, "key")


def test_batcher_runs_simultaneous_calls_together_with_own_results() -> None:
    batches: list[Sequence[int]] = []

    async def square(_key: str, numbers: Sequence[int]) -> list[int]:
        batches.append(numbers)
        return [number * number for number in numbers]

    async def main() -> list[int]:
        submit = submitting(square, max_size=4)
        return await asyncio.gather(*map(submit, range(10)))

    assert asyncio.run(main()) == [number * number for number in range(10)]
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_batcher_runs_single_call_at_once_and_batches_later_ones() -> None:
    turns: list[int] = []
    batches: list[Sequence[int]] = []

    async def work(_key: str, numbers: Sequence[int]) -> list[int]:
        batches.append(numbers)
        await asyncio.sleep(0)
        return list(numbers)

    async def count_turns() -> None:
        while True:
            turns.append(0)
            await asyncio.sleep(0)

    async def main() -> list[int]:
        submit = submitting(work, max_size=9)
        await submit(1)
        counting = asyncio.create_task(count_turns())
        await submit(2)
        assert len(turns) == 1, "the loop turn of the work itself"
        counting.cancel()
        return await asyncio.gather(*map(submit, (3, 4, 5)))

    assert asyncio.run(main()) == [3, 4, 5]
    assert batches == [[1], [2], [3], [4, 5]]


def test_batcher_batches_simultaneous_calls_when_first_ends_at_once() -> None:
    batches: list[Sequence[int]] = []

    async def work(_key: str, numbers: Sequence[int]) -> list[int]:
        batches.append(numbers)
        return list(numbers)

    async def main() -> None:
        submit = submitting(work, max_size=9)
        await submit(1)
        await asyncio.gather(*map(submit, (2, 3, 4)))

    asyncio.run(main())
    assert batches == [[1], [2], [3, 4]]


def test_batcher_single_call_is_cancelled_and_fails_like_others() -> None:
    entered = asyncio.Event()

    async def work(_key: str, numbers: Sequence[int]) -> list[int]:
        if numbers == [2]:
            raise Broken
        if numbers == [3]:
            entered.set()
            await asyncio.Event().wait()
        return list(numbers)

    async def main() -> tuple[int | BaseException, ...]:
        submit = submitting(work, max_size=9)
        first = await submit(1)
        second, _ = await asyncio.gather(submit(2), asyncio.sleep(0), return_exceptions=True)
        third = asyncio.create_task(submit(3))
        await entered.wait()
        third.cancel()
        (gone,) = await asyncio.gather(third, return_exceptions=True)
        return first, second, gone, await submit(4)

    first, second, third, fourth = asyncio.run(main())

    assert (first, fourth) == (1, 4)
    assert isinstance(second, Broken)
    assert isinstance(third, asyncio.CancelledError)


def test_batcher_failure_is_raised_to_all_calls() -> None:
    async def fail(_key: str, _: Sequence[int]) -> list[int]:
        raise Broken

    async def main() -> list[int | BaseException]:
        submit = submitting(fail, max_size=9)
        outcomes = await asyncio.gather(submit(1), submit(2), return_exceptions=True)
        return list(outcomes)

    assert [type(outcome) for outcome in asyncio.run(main())] == [Broken, Broken]


@pytest.mark.parametrize("fails", [False, True])
def test_batcher_cancelled_call_does_not_affect_others(fails: bool) -> None:  # noqa: FBT001
    entered, leave = asyncio.Event(), asyncio.Event()

    async def work(_key: str, numbers: Sequence[int]) -> list[int]:
        entered.set()
        await leave.wait()
        if fails:
            raise Broken
        return list(numbers)

    async def main() -> tuple[int | BaseException, ...]:
        submit = submitting(work, max_size=9)
        gone, stays = (asyncio.create_task(submit(number)) for number in (1, 2))
        await entered.wait()
        gone.cancel()
        leave.set()
        return tuple(await asyncio.gather(gone, stays, return_exceptions=True))

    gone, stays = asyncio.run(main())

    assert isinstance(gone, asyncio.CancelledError)
    assert isinstance(stays, Broken) if fails else stays == 2


def test_batcher_batch_without_waiting_calls_is_cancelled() -> None:
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def work(_key: str, _: Sequence[int]) -> list[int]:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return []

    async def main() -> bool:
        submit = submitting(work, max_size=9)
        first, second = (asyncio.create_task(submit(number)) for number in (1, 2))
        await entered.wait()
        first.cancel()
        await asyncio.wait([first])
        went_on = not cancelled.is_set()
        second.cancel()
        await cancelled.wait()
        return went_on

    assert asyncio.run(main())


def test_requests_of_different_keys_share_no_batch() -> None:
    batches: list[tuple[str, Sequence[int]]] = []

    async def work(key: str, numbers: Sequence[int]) -> list[int]:
        batches.append((key, numbers))
        return list(numbers)

    async def main() -> None:
        batcher = Batcher(work, max_size=9)
        await asyncio.gather(*(batcher.submit(key, n) for n, key in enumerate("abab")))

    asyncio.run(main())
    assert batches == [("a", [0, 2]), ("b", [1, 3])]
