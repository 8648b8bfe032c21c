"""Random calls about users and sessions from many callers: deleted users stay deleted."""

import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial

import grpc
import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message as ProtobufMessage

from palaver.v1.admin_service_pb2 import PurgeDeletedRequest
from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import AddMemoryRequest
from palaver.v1.session_pb2 import Session
from palaver.v1.session_service_pb2 import (
    AddSessionRequest,
    DeleteSessionRequest,
    GetSessionRequest,
    UpdateSessionRequest,
)
from palaver.v1.user_service_pb2 import AddUserRequest, DeleteUserRequest, UpdateUserRequest
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
from tests.support.model.ledger import read_all
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


class Books:
    """The times of acknowledged messages and of deletes; each text is added once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._said_by: dict[str, float] = {}
        self._deletes_began: dict[str, list[float]] = defaultdict(list)

    def say(self, client: Client, choice: random.Random) -> None:
        """Add memory that names a user, who gets the session only if it is new."""
        text = f"{choice.random()}"
        message = Message(role="user", content=text)
        if choice.random() < 0.5:
            message.message_id = choice.choice(["m0", "m1"])
        request = AddMemoryRequest(session_id=choice.choice(SESSIONS), messages=[message])
        if choice.random() < 0.8:
            request.user_id = choice.choice(USERS)
        client.memory.AddMemory(request)
        with self._lock:
            self._said_by[text] = time.monotonic()

    def delete_user(self, client: Client, choice: random.Random) -> None:
        user_id, began_at = choice.choice(USERS), time.monotonic()
        request = DeleteUserRequest(user_id=user_id)
        if unless_refused(NOT_FOUND, lambda: client.users.DeleteUser(request)):
            with self._lock:
                self._deletes_began[user_id].append(began_at)

    def audit(self, client: Client, session_id: str) -> None:
        """Check that no message of a session is older than its user. There must be no writers."""
        request = GetSessionRequest(session_id=session_id)
        session: Session | None = unless_refused(
            NOT_FOUND, lambda: client.sessions.GetSession(request)
        )
        if session is None:
            return
        last_delete = max(self._deletes_began[session.user_id], default=0)
        for message in read_all(client, session_id):
            assert self._said_by[message.content] >= last_delete, "a message outlived its user"


def request_of(choice: random.Random) -> tuple[ProtobufMessage, grpc.StatusCode]:
    """Return one of the other calls, and the code that it may be refused with."""
    session_id, user_id = choice.choice(SESSIONS), choice.choice(USERS)
    return choice.choice(
        [
            (AddSessionRequest(session_id=session_id, user_id=user_id), ALREADY_EXISTS),
            (DeleteSessionRequest(session_id=session_id), NOT_FOUND),
            (UpdateSessionRequest(session_id=session_id, metadata=struct(a=1)), NOT_FOUND),
            (AddUserRequest(user_id=user_id, email="x"), ALREADY_EXISTS),
            (UpdateUserRequest(user_id=user_id, metadata=struct(a=1)), NOT_FOUND),
        ]
    )


def do_another(client: Client, choice: random.Random) -> None:
    request, code = request_of(choice)
    unless_refused(code, lambda: client.send(request))


def move(client: Client, choice: random.Random) -> None:
    request = UpdateSessionRequest(
        session_id=choice.choice(SESSIONS), user_id=choice.choice(["", *USERS])
    )
    unless_refused(NOT_FOUND, lambda: client.sessions.UpdateSession(request))


@pytest.mark.parametrize("mix", ["with moves", "without moves"])
def test_user_races_of_user_and_session_calls_leave_nothing_of_deleted_users(
    callers: list[Client], database: Connection, database_url: str, mix: str
) -> None:
    books = Books()
    done = threading.Event()
    steps: list[Callable[[Client, random.Random], None]] = [
        books.say, books.say, books.say, do_another, do_another, books.delete_user,
    ]  # fmt: skip
    if mix == "with moves":  # a moved message may be older than its new user
        steps += [move, move]

    def work(number: int) -> None:
        choice = random.Random(number)
        for _ in range(ROUNDS):
            choice.choice(steps)(callers[number], choice)

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
    if mix == "without moves":
        for session_id in SESSIONS:
            books.audit(callers[0], session_id)
