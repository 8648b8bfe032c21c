"""Run cases against a server, many at a time, and count their outcomes."""

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

# Cases per hypothesis run: the memory that hypothesis uses grows with the cases it has drawn.
_BLOCK = 1000

_CALL_DEADLINE_SECONDS = 20.0


@dataclass
class Tally:
    """Counts of the outcomes of cases.

    Attributes:
        codes: Number of calls by method and code.
        faults: The first case with each wrong outcome, and what is wrong with it.
    """

    codes: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: dict[tuple[str, str], tuple[Case, str]] = field(default_factory=dict)

    def add(self, case: Case, outcome: Outcome) -> None:
        """Count a case."""
        key = (case.method.full_name, outcome.code)
        self.codes[key] += 1
        wrong = fault(case, outcome)
        if wrong:
            self.faults.setdefault(key, (case, wrong))


async def run(
    address: str, *, number: int, seed: int, in_flight: int, done: Callable[[int], None]
) -> Tally:
    """Draw cases, and call the server with them.

    Args:
        address: Address of the server.
        number: Number of cases.
        seed: The same seed draws the same cases.
        in_flight: Maximum concurrent calls.
        done: Called after each block with the number of calls started.
    """
    tally = Tally()
    room = threading.Semaphore(in_flight)
    loop = asyncio.get_running_loop()
    async with grpc.aio.insecure_channel(address) as channel, asyncio.TaskGroup() as calls:

        async def make(case: Case) -> None:
            try:
                tally.add(case, await call(channel, case, seconds=_CALL_DEADLINE_SECONDS))
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
    """Draw this number of cases; all pass in hypothesis's view, so it continues to draw."""

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
