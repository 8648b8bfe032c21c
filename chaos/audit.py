"""The audit at the end: everything that the service has, against everything that it said."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import grpc
import psycopg
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from chaos.caller import Caller
from chaos.ledger import Ledger
from chaos.listings import Lister
from chaos.reads import get_session, stream_messages
from chaos.servers import Server
from chaos.users import user_exists
from tests.support.concurrency import Connection
from tests.support.model.expected import BrokenPromise
from tests.support.model.tables import broken_rules, duplicate_names, gaps

_SECONDS_TO_HEAL = 60


async def serving_again(servers: Sequence[Server]) -> None:
    """Waits until all servers say that they serve.

    Raises:
        BrokenPromise: One does not.
    """
    end = time.monotonic() + _SECONDS_TO_HEAL
    for server in servers:
        while not await _serves(server.address):
            if time.monotonic() > end:
                raise BrokenPromise(f"{server.address} does not serve again")
            await asyncio.sleep(0.1)


async def _serves(address: str) -> bool:
    async with grpc.aio.insecure_channel(address) as channel:
        health: Any = HealthStub(channel)
        try:
            answer = await health.Check(HealthCheckRequest(), timeout=1)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == HealthCheckResponse.SERVING)


async def audit(caller: Caller, ledger: Ledger, database_url: str) -> None:
    """Notes in the ledger what is not as it says. Nobody may write meanwhile."""
    random = Random(0)
    for book in ledger.books:
        for read in (stream_messages, get_session):
            with ledger.keeps():
                await read(caller, book, random)
    lister = Lister(caller, ledger, random)
    for listing in (lister.page, lister.stream):
        with ledger.keeps():
            await listing()
    for user_id, expected in ledger.users.items():
        with ledger.keeps():
            if expected not in (None, await user_exists(caller, user_id)):
                raise BrokenPromise(f"{user_id} is to be there: {expected}")
    with psycopg.connect(database_url, autocommit=True) as database:
        for wrong in _wrong_rows(database, ledger):
            with ledger.keeps():
                raise BrokenPromise(wrong)


def _wrong_rows(database: Connection, ledger: Ledger) -> Iterator[str]:
    yield from duplicate_names(database)
    yield from gaps(database, [book.session_id for book in ledger.books if book.gapless])
    yield from broken_rules(database)
