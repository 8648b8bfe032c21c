"""A run: a server, well-behaved callers, one attack after the other, and the audit."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from chaos.audit import audit
from chaos.ledger import Ledger
from palaver_server.process.embedded_postgres import EmbeddedPostgres
from siege.attacking_process import AttackingProcess, attacking
from siege.attacks import EMBEDDER_DOWN
from siege.callers import WellBehaved, well_behaved
from siege.measurement import Limits, Measurement
from siege.server import Keys, Server, serving
from tests.support.endpoint import Endpoint, running_endpoint

_CALLERS = 10

# fsync is not needed: no process is killed in this run.
_POSTGRES_SETTINGS = {"fsync": "off"}

_SAMPLE_SECONDS = 0.05

# The pause between two attacks, so that one does not affect the figures of the next.
_PAUSE_PART = 0.1


class ServerEnded(Exception):
    """The server ended during an attack."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a run.

    Args:
        attacks: The names of the attacks.
        seconds: The duration of all attacks together.
        seed: Decides what the callers do.
        limits: The limits of the rules.
    """

    attacks: Sequence[str]
    seconds: float
    seed: int
    limits: Limits


class Run:
    """A run.

    Args:
        plan: Its plan.
        directory: The directory of the data and logs.
        console: Shows the progress.

    Attributes:
        ledger: What the other callers were told.
        measurements: The figures of each attack.
        broken: The rules that did not hold.
    """

    def __init__(self, plan: Plan, directory: Path, console: Console) -> None:
        self._plan = plan
        self._seconds = plan.seconds / len(plan.attacks)
        self._directory = directory
        self._console = console
        self.ledger = Ledger(str(plan.seed))
        self.measurements: list[Measurement] = []
        self.broken: list[str] = []

    async def __call__(self) -> None:
        """Run all attacks, and fill the attributes."""
        with ExitStack() as stack:
            endpoint = stack.enter_context(running_endpoint())
            postgres = stack.enter_context(
                EmbeddedPostgres(self._directory / "data", _POSTGRES_SETTINGS)
            )
            keys = Keys(self._directory / "credentials.toml", _CALLERS)
            embedder = {**endpoint.variables, "PALAVER_EMBEDDER_QUERY_TIMEOUT_SECONDS": "1"}
            server = stack.enter_context(serving(postgres.url, keys, embedder, self._directory))
            async with (
                well_behaved(server.address, keys.others, self.ledger, self._plan.seed) as callers,
                attacking(server.address, keys.attacker) as attacker,
            ):
                try:
                    await self._endure(callers, attacker, server, endpoint)
                except* ServerEnded as ended:
                    self.broken.append(str(ended.exceptions[0]))
                else:
                    self._console.print("all attacks are over; the audit begins")
                    await audit(callers[0].caller, self.ledger, postgres.url)
            self.broken += [f"ledger: {line}" for line in self.ledger.broken]
            self.broken += [f"log: {line}" for line in server.errors()]

    async def _endure(
        self,
        callers: Sequence[WellBehaved],
        attacker: AttackingProcess,
        server: Server,
        endpoint: Endpoint,
    ) -> None:
        over = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for caller in callers:
                tasks.create_task(caller.work(over))
            for attack in self._plan.attacks:
                if attack == EMBEDDER_DOWN:
                    endpoint.hold()
                await self._measure(attack, callers, attacker, server)
                endpoint.release()
            over.set()

    async def _measure(
        self,
        attack: str,
        callers: Sequence[WellBehaved],
        attacker: AttackingProcess,
        server: Server,
    ) -> None:
        measurement = Measurement(attack)
        self.measurements.append(measurement)
        before = self.ledger.calls.copy()
        async with asyncio.TaskGroup() as tasks:
            sampling = tasks.create_task(_sample(server, measurement))
            probing = [
                tasks.create_task(caller.probe(measurement, self._seconds)) for caller in callers
            ]
            measurement.outcomes = await attacker.attack(attack, self._seconds)
            await asyncio.wait(probing)
            sampling.cancel()
        for (_, code), count in (self.ledger.calls - before).items():
            measurement.calls[code] += count
        await self._check(measurement, server)
        await asyncio.sleep(self._seconds * _PAUSE_PART)

    async def _check(self, measurement: Measurement, server: Server) -> None:
        attack = measurement.attack
        if server.ended is not None:
            raise ServerEnded(f"{attack}: the server ended with status {server.ended}")
        broken = list(measurement.broken_rules(self._plan.limits))
        try:
            await asyncio.to_thread(server.scrape)
        except OSError as error:
            broken.append(f"the metrics are not served: {error}")
        self.broken += [f"{attack}: {rule}" for rule in broken]
        self._console.print(f"{attack}: {'; '.join(broken) or 'all rules held'}", highlight=False)


async def _sample(server: Server, measurement: Measurement) -> None:
    """Note the peak of the server's memory until this is cancelled."""
    while True:
        measurement.memory = max(measurement.memory, server.memory)
        await asyncio.sleep(_SAMPLE_SECONDS)
