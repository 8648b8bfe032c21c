"""The audit at the end: everything that is stored, against everything that was acknowledged."""

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
from chaos.listings import SESSIONS, USERS, Lister
from chaos.reads import get_session, stream_messages
from chaos.servers import Server
from tests.support.concurrency import Connection
from tests.support.model.expected import BrokenPromise
from tests.support.model.tables import broken_rules, duplicate_names, gaps

_HEAL_SECONDS = 60


async def serving_again(servers: Sequence[Server]) -> None:
    """Wait until all servers report SERVING.

    Raises:
        BrokenPromise: A server does not in time.
    """
    end = time.monotonic() + _HEAL_SECONDS
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
    """Add to the ledger each difference from what it expects. There must be no writers."""
    random = Random(0)
    for book in ledger.books:
        for read in (stream_messages, get_session):
            with ledger.keeps():
                await read(caller, book, random)
    for household in ledger.households:
        with ledger.keeps():
            await household.audit()
    for kind in (SESSIONS, USERS):
        lister = Lister(caller, ledger, random, kind)
        for listing in (lister.page, lister.stream):
            with ledger.keeps():
                await listing()
    with psycopg.connect(database_url, autocommit=True) as database:
        for wrong in _wrong_rows(database, ledger):
            with ledger.keeps():
                raise BrokenPromise(wrong)


def _wrong_rows(database: Connection, ledger: Ledger) -> Iterator[str]:
    yield from duplicate_names(database)
    yield from gaps(database, [book.session_id for book in ledger.books if book.gapless])
    yield from broken_rules(database)
