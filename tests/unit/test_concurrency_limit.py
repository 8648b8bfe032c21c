"""Concurrency limit: the order in which waiting calls of several principals get slots."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from palaver_server.auth.principal import PRINCIPAL, Principal
from palaver_server.auth.roles import Role
from palaver_server.errors import TooManyCalls
from palaver_server.interceptors.concurrency_limit import ConcurrencyLimit
from palaver_server.interceptors.interceptor import IncomingCall
from tests.conftest import Run
from tests.support.concurrency import MAX_WAIT_SECONDS
from tests.support.interceptors import METHODS


class WithoutMetadata:
    """The context of a call without metadata, which the limit asks for."""

    def invocation_metadata(self) -> tuple[()]:
        return ()


CONTEXT: Any = WithoutMetadata()


class Calls:
    """Calls of principals, each of which runs until it is finished by name."""

    def __init__(self, **limits: int) -> None:
        self.started: list[str] = []
        self._finish: dict[str, asyncio.Future[Callable[[], object]]] = {}
        self._admit = ConcurrencyLimit(streams=1, **limits).intercept(METHODS["GetSession"])

    async def start(self, *names: str) -> list[asyncio.Task[None]]:
        """Start calls one by one; the first letter of a name is its principal."""
        tasks = [asyncio.create_task(self._run(name)) for name in names]
        await self.settle()
        return tasks

    async def finish(self, name: str, then: Callable[[], object] = lambda: None) -> None:
        """Let a running call end; call `then` when its slot is free; let the next calls start."""
        self._finish.pop(name).set_result(then)
        await self.settle()

    async def settle(self) -> None:
        """Let all tasks run until they wait for a slot or the end."""
        for _ in range(10):
            await asyncio.sleep(0)

    async def finish_all(self) -> None:
        """Let all calls run to their end."""
        while self._finish:
            await self.finish(next(iter(self._finish)))

    async def _run(self, name: str) -> None:
        PRINCIPAL.set(Principal(name[0], Role.WRITER))
        hooks = self._admit(IncomingCall(CONTEXT))
        if isinstance(hooks, Awaitable):
            hooks = await hooks
        self.started.append(name)
        loop = asyncio.get_running_loop()
        self._finish[name] = loop.create_future()
        loop.call_soon(await self._finish[name])
        if hooks:
            hooks.close()


def on_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[Run], None]:
    """Run a test on the event loop of the tests."""

    def run_test(run: Run) -> None:
        run(asyncio.wait_for(test(), MAX_WAIT_SECONDS))

    return run_test


async def refused(task: Awaitable[None]) -> None:
    with pytest.raises(TooManyCalls):
        await task


@on_loop
async def test_concurrency_limit_principal_runs_at_most_half() -> None:
    calls = Calls(running=4, waiting=10)

    await calls.start("a1", "a2", "a3", "b1")

    assert calls.started == ["a1", "a2", "b1"]
    await calls.finish_all()


@on_loop
async def test_concurrency_limit_waiting_principals_take_turns() -> None:
    calls = Calls(running=2, waiting=10)
    await calls.start("a1", "b1", "a2", "a3", "a4", "c1", "c2", "b2")
    del calls.started[:]

    for name in ("a1", "b1", "a2", "c1", "b2"):
        await calls.finish(name)

    assert calls.started == ["a2", "c1", "b2", "a3", "c2"]
    await calls.finish_all()


@on_loop
async def test_concurrency_limit_full_queue_refuses_newest_of_greediest_principal() -> None:
    calls = Calls(running=2, waiting=4)
    greedy = await calls.start("a1", "a2", "a3", "a4", "a5", "a6")

    await refused(greedy[-1])
    modest = await calls.start("b1", "b2", "b3")
    await refused(greedy[4])
    await refused(greedy[3])
    (too_many,) = await calls.start("b4")
    await refused(too_many)

    await calls.finish_all()
    await asyncio.gather(*greedy[:3], *modest)


@on_loop
async def test_concurrency_limit_cancelled_waiter_frees_its_places() -> None:
    calls = Calls(running=2, waiting=1)
    _, waiting = await calls.start("a1", "a2")
    waiting.cancel()
    await calls.settle()

    (another,) = await calls.start("a3")

    await calls.finish_all()
    await another
    assert calls.started == ["a1", "a3"]


@on_loop
async def test_concurrency_limit_waiter_cancelled_at_its_turn_passes_the_slot_on() -> None:
    calls = Calls(running=2, waiting=2)
    _, cancelled, next_one = await calls.start("a1", "a2", "a3")

    await calls.finish("a1", then=cancelled.cancel)

    assert calls.started == ["a1", "a3"]
    await calls.finish_all()
    await next_one
