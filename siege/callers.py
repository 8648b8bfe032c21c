"""The well-behaved callers: each has a credential, a connection and sessions of its own.

They add, change, delete, get, list, stream and search as the callers of the chaos run do, and
compare every answer with the ledger. Next to that, each gets a session again and again, which is
measured.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from math import inf
from random import Random
from typing import Any

import grpc

from chaos.caller import Caller
from chaos.channels import Stubs
from chaos.ledger import Ledger
from chaos.listings import SESSIONS, Lister
from chaos.owner import Owner
from palaver.v1.session_service_pb2 import AddSessionRequest, GetSessionRequest
from siege.measurement import Measurement

# Each channel has a connection of its own.
_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)

_PROBE_TIMEOUT_SECONDS = 20
_MAX_PAUSE_SECONDS = 0.2


class _KeyStubs(Stubs):
    """The methods of all services, called with an API key."""

    def __init__(self, channel: grpc.aio.Channel, key: str) -> None:
        super().__init__(channel, heed_health=False)
        self._metadata = (("authorization", f"Bearer {key}"),)

    def rpc(self, name: str) -> Any:
        """Return a method."""
        return partial(super().rpc(name), metadata=self._metadata)


class WellBehaved:
    """A well-behaved caller.

    Args:
        number: Distinguishes it from the others.
        stubs: The methods, called with its key.
        ledger: Notes what it is told.
        random: Its chances.

    Attributes:
        caller: Makes its calls.
    """

    def __init__(self, number: int, stubs: Stubs, ledger: Ledger, random: Random) -> None:
        self.caller = Caller([stubs], ledger, random)
        self._session_id = f"probe-{number}"
        self._get_session = stubs.rpc("GetSession")
        self._ledger = ledger
        self._random = random

    async def prepare(self) -> None:
        """Add the session that is measured."""
        await self.caller.answered(AddSessionRequest(session_id=self._session_id))

    async def work(self, until: asyncio.Event) -> None:
        """Use sessions, one call after the other."""
        owner = Owner(self.caller, self._ledger, self._random)
        lister = Lister(self.caller, self._ledger, self._random, SESSIONS)
        steps: Sequence[Callable[[], Awaitable[None]]] = [*19 * [owner.step], lister.page]
        while not until.is_set():
            with self._ledger.keeps():
                await self._random.choice(steps)()
            await self._pause()

    async def probe(self, measurement: Measurement, seconds: float) -> None:
        """Get the session again and again, also while earlier calls have no answer yet."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        async with asyncio.TaskGroup() as probes:
            while loop.time() < end:
                probes.create_task(self._probe_once(measurement))
                await self._pause()

    async def _probe_once(self, measurement: Measurement) -> None:
        request = GetSessionRequest(session_id=self._session_id)
        began = time.monotonic()
        try:
            await self._get_session(request, timeout=_PROBE_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            measurement.seconds.append(inf)
            measurement.calls[error.code()] += 1
        else:
            measurement.seconds.append(time.monotonic() - began)
            measurement.calls[grpc.StatusCode.OK] += 1

    async def _pause(self) -> None:
        await asyncio.sleep(self._random.uniform(0, _MAX_PAUSE_SECONDS))


@asynccontextmanager
async def well_behaved(
    address: str, keys: Sequence[str], ledger: Ledger, seed: int
) -> AsyncIterator[Sequence[WellBehaved]]:
    """Connect a caller for each key."""
    async with AsyncExitStack() as stack:
        callers = []
        for number, key in enumerate(keys):
            channel = grpc.aio.insecure_channel(address, _OPTIONS)
            stubs = _KeyStubs(await stack.enter_async_context(channel), key)
            random = Random(f"{seed} {number}")
            callers.append(WellBehaved(number, stubs, ledger, random))
            await callers[-1].prepare()
        yield callers
