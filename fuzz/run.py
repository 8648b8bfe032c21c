"""Runs cases against a server, many at a time, and keeps count of how they end."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc
from hypothesis import HealthCheck, Phase, given, seed, settings

from fuzz.calls import Outcome, call
from fuzz.cases import Case, cases
from fuzz.verdict import fault

# Drawn at once: what hypothesis remembers of the cases that it drew grows with them.
_BLOCK = 1000

_SECONDS_A_CALL = 20.0


@dataclass
class Tally:
    """How cases ended.

    Attributes:
        codes: How often each method ended with each code.
        faults: Of each kind of end that may not be, the first case, and what is wrong with it.
    """

    codes: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: dict[tuple[str, str], tuple[Case, str]] = field(default_factory=dict)

    def add(self, case: Case, outcome: Outcome) -> None:
        """Counts a case."""
        key = (case.method.full_name, outcome.code)
        self.codes[key] += 1
        wrong = fault(case, outcome)
        if wrong:
            self.faults.setdefault(key, (case, wrong))


async def run(
    address: str, *, number: int, seed: int, in_flight: int, done: Callable[[int], None]
) -> Tally:
    """Draws cases and calls the server with them.

    Args:
        address: Of the server.
        number: How many cases.
        seed: The same seed draws the same cases.
        in_flight: How many at a time.
        done: Is told now and then how many have begun.
    """
    tally = Tally()
    room = threading.Semaphore(in_flight)
    loop = asyncio.get_running_loop()
    async with grpc.aio.insecure_channel(address) as channel, asyncio.TaskGroup() as calls:

        async def make(case: Case) -> None:
            try:
                tally.add(case, await call(channel, case, seconds=_SECONDS_A_CALL))
            finally:
                room.release()

        def begin(case: Case) -> None:
            room.acquire()
            loop.call_soon_threadsafe(lambda: calls.create_task(make(case)))

        for first in range(0, number, _BLOCK):
            size = min(_BLOCK, number - first)
            await asyncio.to_thread(_draw, begin, size, f"{seed} from {first}")
            done(first + size)
    return tally


def _draw(begin: Callable[[Case], None], number: int, seed_of_block: str) -> None:
    """Draws so many cases; hypothesis sees them all pass, and so draws on."""

    @seed(seed_of_block)
    @settings(
        max_examples=number,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases())
    def draw(case: Case) -> None:
        begin(case)

    draw()
