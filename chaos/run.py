"""A run: the servers, their callers, their faults, and the audit."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from random import Random

from rich.console import Console
from rich.progress import Progress

from chaos.audit import audit, serving_again
from chaos.caller import Caller
from chaos.channels import connected
from chaos.crowd import Crowd
from chaos.faults import PostgresFaults, ServerFaults, torment
from chaos.ledger import Ledger
from chaos.listings import SESSIONS, USERS, Lister, purge
from chaos.owner import Owner
from chaos.servers import Server, serving
from palaver_server.process.embedded_postgres import EmbeddedPostgres

_SERVERS = 2

# fsync is not needed: only processes are killed, so the kernel still writes their data.
_POSTGRES_SETTINGS = {"fsync": "off"}

_OWNERS = 13

# A caller waits at most this long before its next call.
_MAX_PAUSE_SECONDS = 0.1
_LISTER_MAX_PAUSE_SECONDS = 2.0

Step = Callable[[], Awaitable[None]]


class Run:
    """A run of some seconds, whose random choices come from the seed.

    Args:
        directory: The directory for data and logs.
        console: Shows the progress.
    """

    def __init__(self, seed: int, seconds: float, directory: Path, console: Console) -> None:
        self._seed = seed
        self._seconds = seconds
        self._directory = directory
        self._console = console
        self._stopping = asyncio.Event()
        self.ledger = Ledger(str(seed))

    async def __call__(self) -> None:
        """Run, and fill the ledger."""
        with ExitStack() as stack:
            data_dir = self._directory / "data"
            postgres = stack.enter_context(EmbeddedPostgres(data_dir, _POSTGRES_SETTINGS))
            servers = stack.enter_context(serving(postgres.url, self._directory, _SERVERS))
            keeping = [asyncio.create_task(server.keep_running()) for server in servers]
            await serving_again(servers)
            addresses = [server.address for server in servers]
            async with connected(addresses) as stubs:
                caller = Caller(stubs, self.ledger, self._random("calls"))
                await self._struggle(caller, servers, postgres)
                with self.ledger.keeps():
                    await serving_again(servers)
                self._console.print("all servers serve again; the audit begins")
                await audit(caller, self.ledger, postgres.url)
            for task in keeping:
                task.cancel()
        for server in servers:
            self.ledger.broken += server.signs_of_a_bug()

    async def _struggle(
        self, caller: Caller, servers: Sequence[Server], postgres: EmbeddedPostgres
    ) -> None:
        """Run all callers and all faults until the time is over."""
        victims = {
            f"server {n}": ServerFaults(server, self.ledger).kinds
            for n, server in enumerate(servers)
        }
        victims["PostgreSQL"] = PostgresFaults(postgres).kinds
        async with asyncio.TaskGroup() as tasks:
            for step, max_pause in self._steps(caller):
                tasks.create_task(self._repeat(step, max_pause))
            torments = [
                tasks.create_task(torment(kinds, self._random(victim), self.ledger))
                for victim, kinds in victims.items()
            ]
            await self._wait()
            for task in torments:
                task.cancel()
            self._stopping.set()

    def _steps(self, caller: Caller) -> Iterator[tuple[Step, float]]:
        """Yield the step that each task repeats, and its longest pause in seconds."""
        for number in range(_OWNERS):
            yield (
                Owner(caller, self.ledger, self._random(f"owner {number}")).step,
                _MAX_PAUSE_SECONDS,
            )
        for deletes in (False, True):
            crowd = Crowd(caller, self.ledger, self._random(f"crowd {deletes}"), deletes=deletes)
            yield from (
                (step, _MAX_PAUSE_SECONDS)
                for step in (crowd.add, crowd.add_next, crowd.add_without_ids)
            )
            yield from (
                (step, _MAX_PAUSE_SECONDS) for step in (crowd.merge, crowd.read, crowd.read)
            )
            yield crowd.delete, 5 * _MAX_PAUSE_SECONDS
        for kind in (SESSIONS, USERS):
            lister = Lister(caller, self.ledger, self._random(f"lister {kind.items}"), kind)
            yield lister.page, _LISTER_MAX_PAUSE_SECONDS
            yield lister.stream, _LISTER_MAX_PAUSE_SECONDS
        yield partial(purge, caller, self._random("purge")), _LISTER_MAX_PAUSE_SECONDS

    async def _repeat(self, step: Step, max_pause: float) -> None:
        random = self._random("leisure")
        while not self._stopping.is_set():
            with self.ledger.keeps():
                await step()
            await asyncio.sleep(random.uniform(0, max_pause))

    async def _wait(self) -> None:
        """Show the progress of the run until its time is over."""
        with Progress(console=self._console) as progress:
            bar = progress.add_task("", total=self._seconds)
            loop = asyncio.get_running_loop()
            end = loop.time() + self._seconds
            while (left := end - loop.time()) > 0:
                calls, faults = self.ledger.calls.total(), self.ledger.faults.total()
                text = (
                    f"{calls:,} calls, {faults} faults, {len(self.ledger.broken)} broken promises"
                )
                progress.update(bar, completed=self._seconds - left, description=text)
                await asyncio.sleep(min(left, 0.5))

    def _random(self, whose: str) -> Random:
        """Return a generator of its own for each: faults do not depend on the number of calls."""
        return Random(f"{self._seed} {whose}")
