"""A bound caller's calls that wait for a transaction which moves the session to another user."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import grpc
import psycopg
import pytest
from google.protobuf.descriptor import MethodDescriptor

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import AddMemoryRequest, StreamMessagesRequest
from palaver.v1.session_service_pb2 import AddSessionRequest, UpdateSessionRequest
from palaver_server.auth.roles import POLICY, Role
from tests.conftest import StartServer
from tests.support import contract
from tests.support.callers import KeysFile, caller
from tests.support.client import Client, refused
from tests.support.concurrency import PATIENCE, Connection, begin, wait_until_blocked

MOVE = "UPDATE sessions SET user_id = %s WHERE session_id = 's'"

WRITES = [
    method
    for method in contract.METHODS
    if contract.names_a_session(method) and POLICY[contract.path(method)] is Role.WRITER
]


@pytest.fixture
def ada(start_server: StartServer, keys_file: KeysFile) -> Iterator[Client]:
    """Ada, bound to herself."""
    key = keys_file.add(Role.WRITER, "ada")
    server = start_server(credentials=keys_file.path)
    with caller(server.address, key) as client:
        yield client


@pytest.fixture
def rival(database_url: str) -> Iterator[Connection]:
    """Another writer, in a transaction that the test ends."""
    with psycopg.connect(database_url) as connection:
        yield connection
        connection.rollback()


def add(ada: Client) -> None:
    message = Message(message_id="m", role="user", content="one")
    ada.memory.AddMemory(AddMemoryRequest(session_id="s", messages=[message]))


def rows(database: Connection) -> list[Any]:
    sessions = database.execute("SELECT s::text FROM sessions s ORDER BY 1").fetchall()
    return sessions + database.execute("SELECT m::text FROM messages m ORDER BY 1").fetchall()


def requests_of(method: MethodDescriptor) -> list[Any]:
    """Requests that take each of the method's ways through the database."""
    request: Any = contract.request_about(method, session_id="s")
    if method.name != "AddMemory":
        return [request]
    without_ids = AddMemoryRequest(session_id="s", messages=[Message(role="user")])
    expecting = AddMemoryRequest(
        session_id="s", messages=[Message(role="user")], expected_last_sequence=0
    )
    return [request, without_ids, expecting]


class Case(NamedTuple):
    """A write of Ada's, and how it is refused once the session is another's."""

    method: MethodDescriptor
    request: Any

    @property
    def creates(self) -> bool:
        """Whether it brings sessions into being, and deleted ones back."""
        return self.method.name.startswith("Add")

    @property
    def refusal(self) -> grpc.StatusCode:
        """The code."""
        taken = self.method.name == "AddSession"
        return grpc.StatusCode.ALREADY_EXISTS if taken else grpc.StatusCode.NOT_FOUND

    def __str__(self) -> str:
        return f"{self.method.name} {str(self.request)[:60]!r}"


CASES = [Case(method, request) for method in WRITES for request in requests_of(method)]
CREATING = [case for case in CASES if case.creates]


def check_refused(ada: Client, rival: Connection, database: Connection, case: Case) -> None:
    """Makes the call, which must wait for the rival, and then change nothing."""
    call = begin(partial(contract.send, ada.channel, case.method, case.request))
    wait_until_blocked(database)
    rival.commit()
    before = rows(database)

    with refused(case.refusal):
        call.result(PATIENCE)

    assert rows(database) == before


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_session_that_is_moved_away_while_a_write_waits_is_not_written(
    ada: Client, rival: Connection, database: Connection, case: Case
) -> None:
    add(ada)
    rival.execute(MOVE, ["bob"])

    check_refused(ada, rival, database, case)


@pytest.mark.parametrize("case", CREATING, ids=str)
def test_a_deleted_session_that_is_moved_away_while_a_write_waits_is_not_brought_back(
    ada: Client, rival: Connection, database: Connection, case: Case
) -> None:
    add(ada)
    database.execute("UPDATE sessions SET deleted_at = now()")
    database.execute("UPDATE messages SET deleted_at = now()")
    rival.execute(MOVE, ["bob"])

    check_refused(ada, rival, database, case)


@pytest.mark.parametrize("case", CREATING, ids=str)
def test_a_session_that_another_creates_while_a_write_waits_is_not_written(
    ada: Client, rival: Connection, database: Connection, case: Case
) -> None:
    rival.execute("INSERT INTO sessions (session_id, user_id) VALUES ('s', 'bob')")

    check_refused(ada, rival, database, case)


def test_a_session_that_is_moved_here_while_a_write_waits_is_written(
    ada: Client, rival: Connection, database: Connection
) -> None:
    add(ada)
    rival.execute(MOVE, ["ada"])
    call = begin(lambda: ada.sessions.UpdateSession(UpdateSessionRequest(session_id="s")))
    wait_until_blocked(database)

    rival.commit()

    assert call.result(PATIENCE).user_id == "ada"


def test_a_stream_of_a_session_that_is_moved_away_ends(ada: Client, database: Connection) -> None:
    ada.sessions.AddSession(AddSessionRequest(session_id="s"))
    for _ in range(20):
        ada.add("s", "x" * 1_000_000)
    stream = ada.memory.StreamMessages(StreamMessagesRequest(session_id="s", chunk_size=1))
    next(stream)

    database.execute(MOVE, ["bob"])

    with refused(grpc.StatusCode.NOT_FOUND):
        list(stream)
