"""The faults: what is done to servers and to PostgreSQL, and when, as a seed has it."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from random import Random

import psutil

from chaos.ledger import Ledger
from chaos.servers import Server
from palaver_server.process.embedded_postgres import EmbeddedPostgres

# Seconds. Between the faults of one victim there is time to get some work done.
_PAUSE = (1.0, 8.0)
_FREEZE = (0.5, 5.0)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is done to a victim next.

    Attributes:
        pause: Seconds until then.
        kind: Its name.
        seconds: How long the victim is frozen, if it is.
        which: Which of the processes, from 0 to 1, if it is one of many.
    """

    pause: float
    kind: str
    seconds: float
    which: float


def faults(kinds: Sequence[str], random: Random) -> Iterator[Fault]:
    """Gives faults without end, the same for the same seed."""
    while True:
        yield Fault(
            random.uniform(*_PAUSE), random.choice(kinds), random.uniform(*_FREEZE), random.random()
        )


Torment = Callable[[Fault], Awaitable[None]]


class ServerFaults:
    """What is done to a server."""

    def __init__(self, server: Server, ledger: Ledger) -> None:
        self._server = server
        self._ledger = ledger
        self.kinds: dict[str, Torment] = {
            "server killed": self._kill,
            "server stopped": self._stop,
            "server frozen": self._freeze,
        }

    async def _kill(self, _fault: Fault) -> None:
        await self._server.listens()
        self._server.kill()

    async def _stop(self, _fault: Fault) -> None:
        await self._server.listens()
        with self._ledger.stopping():
            await self._server.stop()

    async def _freeze(self, fault: Fault) -> None:
        async with _frozen([self._server.process]):
            await asyncio.sleep(fault.seconds)


class PostgresFaults:
    """What is done to PostgreSQL, which is started again by what runs it."""

    def __init__(self, postgres: EmbeddedPostgres) -> None:
        self._postgres = postgres
        self.kinds: dict[str, Torment] = {
            "postmaster killed": self._kill,
            "PostgreSQL stopped at once": self._stop,
            "backend killed": self._kill_backend,
            "PostgreSQL frozen": self._freeze,
            "backend frozen": self._freeze_backend,
        }

    async def _kill(self, _fault: Fault) -> None:
        self._signal(signal.SIGKILL)

    async def _stop(self, _fault: Fault) -> None:
        self._signal(signal.SIGQUIT)

    async def _kill_backend(self, fault: Fault) -> None:
        for backend in self._backend(fault):
            backend.kill()

    async def _freeze(self, fault: Fault) -> None:
        async with _frozen(self._processes()):
            await asyncio.sleep(fault.seconds)

    async def _freeze_backend(self, fault: Fault) -> None:
        async with _frozen(self._backend(fault)):
            await asyncio.sleep(fault.seconds)

    def _signal(self, way: signal.Signals) -> None:
        psutil.Process(self._postgres.pid).send_signal(way)

    def _processes(self) -> list[psutil.Process]:
        postmaster = psutil.Process(self._postgres.pid)
        return [postmaster, *postmaster.children()]

    def _backend(self, fault: Fault) -> list[psutil.Process]:
        """Gives one of the processes that work for servers, or none if there are none."""
        backends = [one for one in self._processes() if "[local]" in "".join(one.cmdline())]
        return backends[int(fault.which * len(backends)) :][:1]


@asynccontextmanager
async def _frozen(processes: Sequence[psutil.Process]) -> AsyncIterator[None]:
    try:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


async def torment(kinds: dict[str, Torment], random: Random, ledger: Ledger) -> None:
    """Does one fault after the other to a victim, for ever."""
    for fault in faults(list(kinds), random):
        await asyncio.sleep(fault.pause)
        ledger.faults[fault.kind] += 1
        with ledger.keeps(), suppress(psutil.NoSuchProcess):  # ended by itself just now
            await kinds[fault.kind](fault)
