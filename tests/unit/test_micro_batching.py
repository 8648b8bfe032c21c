"""Micro-batching, without a server, in virtual time: windows end exactly when they should."""

import asyncio
from typing import Any

import pytest

from palaver_server.interceptors.micro_batching import MicroBatching
from tests.support.interceptors import Call, intercepted
from tests.support.virtual_time import run_in_virtual_time

CONTEXT: Any = None


def batched(call: Call) -> Call:
    return intercepted(MicroBatching(), call)


async def echo(request: bytes, _: Any) -> bytes:
    return request


def passes_at_once(call: Call) -> bool:
    """Return whether a call passes without waiting."""
    coroutine: Any = call(b"", CONTEXT)
    try:
        coroutine.send(None)
    except StopIteration:
        return True
    coroutine.close()
    return False


async def one_after_the_other(call: Call, count: int) -> int:
    """Make calls, await those that wait, and count them."""
    waited = 0
    for _ in range(count):
        task = asyncio.create_task(call(b"", CONTEXT))
        await asyncio.sleep(0)
        waited += not task.done()
        await task
    return waited


def test_micro_batching_at_low_concurrency_probes_ever_more_rarely() -> None:
    async def main() -> list[int]:
        call = batched(echo)
        return [await one_after_the_other(call, count) for count in (64, 1, 128, 1, 256, 1, 512, 1)]

    assert run_in_virtual_time(main()) == [0, 1, 0, 1, 0, 1, 0, 1]


def test_micro_batching_of_many_calls_starts_them_together() -> None:
    running, most = 0, 0
    together, all_run = asyncio.Event(), asyncio.Event()

    async def work(request: bytes, _: Any) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 20:
            all_run.set()
        await together.wait()
        running -= 1
        return request

    async def main() -> list[bytes]:
        together.set()
        call = batched(work)
        await one_after_the_other(call, 64)
        together.clear()
        calls = [asyncio.create_task(call(bytes([n]), CONTEXT)) for n in range(20)]
        await asyncio.sleep(0)
        assert running == 0, "the calls wait"
        await all_run.wait()
        together.set()
        return await asyncio.gather(*calls)

    assert run_in_virtual_time(main()) == [bytes([n]) for n in range(20)]
    assert most == 20


def test_batch_is_released_when_no_call_comes_for_a_while() -> None:
    async def main() -> float:
        call = batched(echo)
        await one_after_the_other(call, 64)
        clock = asyncio.get_running_loop().time
        started = clock()
        await call(b"", CONTEXT)
        return clock() - started

    assert run_in_virtual_time(main()) == pytest.approx(0.003)


def test_batch_is_released_while_calls_keep_coming() -> None:
    async def main() -> float:
        call = batched(echo)
        await one_after_the_other(call, 64)
        clock = asyncio.get_running_loop().time
        started = clock()
        first = asyncio.create_task(call(b"", CONTEXT))
        calls = []
        while not first.done():
            calls.append(asyncio.create_task(call(b"", CONTEXT)))
            await asyncio.sleep(0.002)
        released = clock() - started
        await asyncio.gather(*calls)
        return released

    assert run_in_virtual_time(main()) == pytest.approx(0.01)


def test_micro_batching_after_load_drops_lets_calls_pass() -> None:
    async def main() -> list[bool]:
        call = batched(echo)
        await one_after_the_other(call, 64)
        await asyncio.gather(*(call(b"", CONTEXT) for _ in range(20)))
        pass_at_once = []
        for _ in range(4):  # windows with few calls; the first one may be chance
            pass_at_once.append(passes_at_once(call))
            await asyncio.gather(*(call(b"", CONTEXT) for _ in range(2)))
        return [*pass_at_once, passes_at_once(call)]

    assert run_in_virtual_time(main()) == [False, False, False, False, True]


def test_batch_with_a_cancelled_call_releases_the_others() -> None:
    async def main() -> list[bytes | BaseException]:
        call = batched(echo)
        await one_after_the_other(call, 64)
        calls = [asyncio.create_task(call(bytes([n]), CONTEXT)) for n in range(3)]
        await asyncio.sleep(0)
        calls[0].cancel()
        return await asyncio.gather(*calls, return_exceptions=True)

    gone, *stayed = run_in_virtual_time(main())

    assert isinstance(gone, asyncio.CancelledError)
    assert stayed == [b"\1", b"\2"]
