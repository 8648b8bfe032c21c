"""The code of a cancelled call, and reports of calls."""

import asyncio
from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any

import pytest

from palaver_server.call_context import Call
from palaver_server.interceptors.observation import Observation
from tests.support.interceptors import UNARY_METHODS, intercepted


class Context:
    """A call's context with this many seconds until its deadline."""

    def __init__(self, remaining: float | None = None) -> None:
        self._remaining = remaining

    def invocation_metadata(self) -> None:
        return None

    def peer(self) -> str:
        return "peer"

    def set_trailing_metadata(self, metadata: Any) -> None:
        pass

    def code(self) -> None:
        return None

    def time_remaining(self) -> float | None:
        return self._remaining


@pytest.mark.parametrize(
    ("remaining", "code"),
    [
        (None, "CANCELLED"),
        (30.0, "CANCELLED"),
        (0.0, "DEADLINE_EXCEEDED"),
        (0.01, "DEADLINE_EXCEEDED"),  # passed by the caller's clock
    ],
)
def test_observation_cancelled_call_has_code_of_caller(remaining: float | None, code: str) -> None:
    ended: list[Call] = []
    observation = Observation([], [ended.extend])

    async def cancelled(_request: bytes, _context: Any) -> bytes:
        raise asyncio.CancelledError

    async def call() -> None:
        context: Any = Context(remaining)
        with pytest.raises(asyncio.CancelledError):
            await intercepted(observation, cancelled)(b"", context)
        observation.report()

    asyncio.run(call())

    assert [one.code for one in ended] == [code]


def test_observation_reports_calls_in_batches_once_each() -> None:
    names = list(islice(cycle(UNARY_METHODS), 100))
    reports: list[Sequence[Call]] = []
    observation = Observation([], [reports.append])

    async def answer(request: bytes, _context: Any) -> bytes:
        return request

    async def calls() -> None:
        context: Any = Context()
        for name in names:
            await intercepted(observation, answer, method=name)(b"", context)
            await asyncio.sleep(0)
        observation.report()
        observation.report()

    asyncio.run(calls())

    assert [one.method for report in reports for one in report] == [
        f"/palaver.v1.SessionService/{name}" for name in names
    ]
    assert len(reports) == 4
