"""Random adds, deletes and purges from many callers: acknowledged messages stay."""

import random
import threading
from collections.abc import Callable, Iterator
from functools import partial

import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration

from palaver.v1.admin_service_pb2 import PurgeDeletedRequest
from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import DeleteMessagesRequest
from tests.conftest import StartServer
from tests.support.client import Client
from tests.support.concurrency import MAX_WAIT_SECONDS, Connection, at_once, begin, crowd
from tests.support.model.ledger import Ledger
from tests.support.model.tables import audit_tables, count_deleted_rows

pytestmark = pytest.mark.slow

SESSIONS = ("s0", "s1", "s2")
ROUNDS = 30

Step = Callable[[Ledger, Client, random.Random], None]


@pytest.fixture
def callers(start_server: StartServer) -> Iterator[list[Client]]:
    """12 callers, spread over two servers on one database, which purge in small batches."""
    settings = {"pool_timeout_seconds": 60, "purge_batch_size": 3}
    with crowd([start_server(**settings), start_server(**settings)], 12) as callers:
        yield callers


def add_without_ids(ledger: Ledger, client: Client, choice: random.Random) -> None:
    messages = [Message(role="user", content="without id") for _ in range(choice.randint(1, 3))]
    ledger.add_memory(client, choice.choice(SESSIONS), messages)


def add_with_ids(ledger: Ledger, client: Client, choice: random.Random) -> None:
    names = choice.sample(["m0", "m1", "m2", "m3", "m4"], choice.randint(1, 3))
    messages = [Message(message_id=name, role="user", content="with id") for name in names]
    ledger.add_memory(client, choice.choice(SESSIONS), messages)


def add_session(ledger: Ledger, client: Client, choice: random.Random) -> None:
    ledger.add_session(client, choice.choice(SESSIONS))


def delete_newest(ledger: Ledger, client: Client, choice: random.Random) -> None:
    request = DeleteMessagesRequest(session_id=choice.choice(SESSIONS), last_n=choice.randint(1, 4))
    ledger.delete_messages(client, request)


def delete_by_id(ledger: Ledger, client: Client, choice: random.Random) -> None:
    request = DeleteMessagesRequest(session_id=choice.choice(SESSIONS), message_ids=["m0", "m1"])
    ledger.delete_messages(client, request)


def delete_session(ledger: Ledger, client: Client, choice: random.Random) -> None:
    ledger.delete_session(client, choice.choice(SESSIONS))


def read(ledger: Ledger, client: Client, choice: random.Random) -> None:
    ledger.read(client, choice.choice(SESSIONS))


MIXES: dict[str, list[Step]] = {
    "messages": [
        add_without_ids, add_without_ids, add_with_ids, add_with_ids, add_with_ids,
        delete_newest, delete_by_id, delete_session, add_session, read,
    ],
    "sessions": [add_session, add_session, delete_session],
    "first writes": [add_without_ids, add_with_ids, delete_session, delete_session],
}  # fmt: skip


@pytest.mark.parametrize("mix", MIXES)
def test_memory_races_of_adds_deletes_and_purges_keep_the_ledger(
    callers: list[Client], database: Connection, database_url: str, mix: str
) -> None:
    ledger = Ledger()
    done = threading.Event()

    def work(number: int) -> None:
        choice = random.Random(number)
        for _ in range(ROUNDS):
            choice.choice(MIXES[mix])(ledger, callers[number], choice)

    def purge_all_the_time(client: Client) -> int:
        removed = 0
        while True:
            *_, last = client.admin.PurgeDeleted(PurgeDeletedRequest(older_than=Duration()))
            removed += last.messages.done + last.sessions.done
            if done.is_set():
                return removed

    def audit_all_the_time() -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            while not done.is_set():
                audit_tables(connection)

    callers[0].add("bystander", "deleted before anything begins")
    callers[0].delete_session("bystander")
    purges = [begin(partial(purge_all_the_time, client)) for client in callers[:2]]
    audit = begin(audit_all_the_time)
    try:
        at_once([partial(work, number) for number in range(len(callers))]).all_succeeded()
    finally:
        done.set()
    audit.result(MAX_WAIT_SECONDS)
    assert sum(purge.result(MAX_WAIT_SECONDS) for purge in purges) > 0, (
        "the purge had nothing to do"
    )

    audit_tables(database)
    before = ledger.audit(callers[0], SESSIONS)
    list(callers[0].admin.PurgeDeleted(PurgeDeletedRequest(older_than=Duration())))
    assert count_deleted_rows(database) == 0
    assert before == ledger.audit(callers[1], SESSIONS)
