"""The faults of servers and PostgreSQL; a seed determines which happen, and when."""

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

# The pause between two faults of one victim lets callers do some work.
_PAUSE_SECONDS = (1.0, 8.0)
_FREEZE_SECONDS = (0.5, 5.0)


@dataclass(frozen=True, slots=True)
class Fault:
    """The next fault of a victim.

    Attributes:
        pause: The seconds until then.
        kind: The name of the fault.
        seconds: The seconds for which the fault freezes the victim, if it does.
        which: Chooses one of several processes: from 0 to 1.
    """

    pause: float
    kind: str
    seconds: float
    which: float


def faults(kinds: Sequence[str], random: Random) -> Iterator[Fault]:
    """Yield faults without end, the same for the same seed."""
    while True:
        yield Fault(
            random.uniform(*_PAUSE_SECONDS),
            random.choice(kinds),
            random.uniform(*_FREEZE_SECONDS),
            random.random(),
        )


Torment = Callable[[Fault], Awaitable[None]]


class ServerFaults:
    """The kinds of faults of a server."""

    def __init__(self, server: Server, ledger: Ledger) -> None:
        self._server = server
        self._ledger = ledger
        self.kinds: dict[str, Torment] = {
            "server killed": self._kill,
            "worker killed": self._kill_worker,
            "server stopped": self._stop,
            "server frozen": self._freeze,
        }

    async def _kill(self, _fault: Fault) -> None:
        await self._server.listens()
        self._server.kill()

    async def _kill_worker(self, _fault: Fault) -> None:
        await self._server.listens()
        for worker in self._server.workers:
            worker.kill()

    async def _stop(self, _fault: Fault) -> None:
        await self._server.listens()
        with self._ledger.stopping():
            await self._server.stop()

    async def _freeze(self, fault: Fault) -> None:
        async with _frozen(self._server.workers):
            await asyncio.sleep(fault.seconds)


class PostgresFaults:
    """The kinds of faults of PostgreSQL; EmbeddedPostgres restarts it."""

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
        """Return one of the backends of servers, or none if there are none."""
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
    """Make one fault after the other happen to a victim, until cancelled."""
    for fault in faults(list(kinds), random):
        await asyncio.sleep(fault.pause)
        ledger.faults[fault.kind] += 1
        with ledger.keeps(), suppress(psutil.NoSuchProcess):  # the process just ended by itself
            await kinds[fault.kind](fault)
