"""Random calls about users and sessions from many callers: deleted users stay deleted."""

import random
import threading
from collections.abc import Callable, Iterator
from functools import partial

import grpc
import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration

from palaver.v1.admin_service_pb2 import PurgeDeletedRequest
from palaver.v1.memory_pb2 import Message
from palaver.v1.session_service_pb2 import (
    UpdateSessionRequest,
)
from palaver.v1.user_service_pb2 import AddUserRequest, UpdateUserRequest
from tests.conftest import StartServer
from tests.support.client import Client, struct
from tests.support.concurrency import (
    MAX_WAIT_SECONDS,
    Connection,
    at_once,
    begin,
    crowd,
    unless_refused,
)
from tests.support.model.ledger import Ledger
from tests.support.model.tables import audit_tables

pytestmark = pytest.mark.slow

SESSIONS = ("s0", "s1", "s2", "s3")
USERS = ("u0", "u1")
ROUNDS = 40

NOT_FOUND, ALREADY_EXISTS = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS


@pytest.fixture
def callers(start_server: StartServer) -> Iterator[list[Client]]:
    """12 callers, spread over two servers on one database, which purge in small batches."""
    settings = {"pool_timeout_seconds": 60, "purge_batch_size": 3}
    with crowd([start_server(**settings), start_server(**settings)], 12) as callers:
        yield callers


def add_memory(ledger: Ledger, client: Client, choice: random.Random) -> None:
    """Add a message, mostly with a user, who gets the session only if it is new."""
    message = Message(role="user", content=f"{choice.random()}")
    if choice.random() < 0.5:
        message.message_id = choice.choice(["m0", "m1"])
    user_id = choice.choice(USERS) if choice.random() < 0.8 else None
    ledger.add_memory(client, choice.choice(SESSIONS), [message], user_id=user_id)


def add_session(ledger: Ledger, client: Client, choice: random.Random) -> None:
    ledger.add_session(client, choice.choice(SESSIONS), user_id=choice.choice(USERS))


def delete_session(ledger: Ledger, client: Client, choice: random.Random) -> None:
    ledger.delete_session(client, choice.choice(SESSIONS))


def delete_user(ledger: Ledger, client: Client, choice: random.Random) -> None:
    ledger.delete_user(client, choice.choice(USERS))


def update_session(_ledger: Ledger, client: Client, choice: random.Random) -> None:
    request = UpdateSessionRequest(session_id=choice.choice(SESSIONS), metadata=struct(a=1))
    unless_refused(NOT_FOUND, lambda: client.sessions.UpdateSession(request))


def add_user(_ledger: Ledger, client: Client, choice: random.Random) -> None:
    request = AddUserRequest(user_id=choice.choice(USERS), email="x")
    unless_refused(ALREADY_EXISTS, lambda: client.users.AddUser(request))


def update_user(_ledger: Ledger, client: Client, choice: random.Random) -> None:
    request = UpdateUserRequest(user_id=choice.choice(USERS), metadata=struct(a=1))
    unless_refused(NOT_FOUND, lambda: client.users.UpdateUser(request))


def do_another(ledger: Ledger, client: Client, choice: random.Random) -> None:
    """Make one of the calls that are less frequent."""
    others = [add_session, delete_session, update_session, add_user, update_user]
    choice.choice(others)(ledger, client, choice)


def move_session(ledger: Ledger, client: Client, choice: random.Random) -> None:
    ledger.move_session(client, choice.choice(SESSIONS), choice.choice(["", *USERS]))


@pytest.mark.parametrize("mix", ["with moves", "without moves"])
def test_user_races_of_user_and_session_calls_leave_nothing_of_deleted_users(
    callers: list[Client], database: Connection, database_url: str, mix: str
) -> None:
    ledger = Ledger()
    done = threading.Event()
    steps: list[Callable[[Ledger, Client, random.Random], None]] = [
        add_memory, add_memory, add_memory, do_another, do_another, delete_user,
    ]  # fmt: skip
    if mix == "with moves":
        steps += [move_session, move_session]

    def work(number: int) -> None:
        choice = random.Random(number)
        for _ in range(ROUNDS):
            choice.choice(steps)(ledger, callers[number], choice)

    def purge_all_the_time() -> int:
        removed = 0
        while not done.is_set():
            request = PurgeDeletedRequest(older_than=Duration())
            *_, last = callers[0].admin.PurgeDeleted(request)
            removed += last.users.done
        return removed

    def audit_all_the_time() -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            while not done.is_set():
                audit_tables(connection)

    callers[0].add_user("bystander")
    callers[0].delete_user("bystander")
    purge, audit = begin(purge_all_the_time), begin(audit_all_the_time)
    try:
        at_once([partial(work, number) for number in range(len(callers))]).all_succeeded()
    finally:
        done.set()
    audit.result(MAX_WAIT_SECONDS)
    assert purge.result(MAX_WAIT_SECONDS) > 0, "the purge had nothing to do"
    audit_tables(database)
    ledger.audit(callers[0], SESSIONS)
