"""Access scope: calls that wait while another transaction moves the session to another user."""

from functools import partial
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import AddMemoryRequest
from palaver_server.auth.roles import POLICY, Role
from tests.support import contract
from tests.support.client import Client, refused
from tests.support.concurrency import MAX_WAIT_SECONDS, Connection, begin, wait_until_blocked
from tests.support.rival import MOVE_SESSION

WRITES = [
    method
    for method in contract.METHODS
    if contract.names_a_session(method) and POLICY[contract.path(method)] is Role.WRITER
]


def add(scoped: Client) -> None:
    message = Message(message_id="m", role="user", content="one")
    scoped.add_memory("s", [message])


def rows(database: Connection) -> list[Any]:
    sessions = database.execute("SELECT s::text FROM sessions s ORDER BY 1").fetchall()
    return sessions + database.execute("SELECT m::text FROM messages m ORDER BY 1").fetchall()


def requests_of(method: MethodDescriptor) -> list[Any]:
    """Return one request for each statement that the method may run."""
    request: Any = contract.request_about(method, session_id="s")
    if method.name != "AddMemory":
        return [request]
    without_ids = AddMemoryRequest(session_id="s", messages=[Message(role="user")])
    expecting = AddMemoryRequest(
        session_id="s", messages=[Message(role="user")], expected_last_sequence=0
    )
    return [request, without_ids, expecting]


class Case(NamedTuple):
    """A write of Ada's, and its refusal when the session belongs to another user."""

    method: MethodDescriptor
    request: Any

    @property
    def creates(self) -> bool:
        """Whether it creates sessions and restores deleted ones."""
        return self.method.name.startswith("Add")

    @property
    def refusal(self) -> grpc.StatusCode:
        """The code of the refusal."""
        taken = self.method.name == "AddSession"
        return grpc.StatusCode.ALREADY_EXISTS if taken else grpc.StatusCode.NOT_FOUND

    def __str__(self) -> str:
        return f"{self.method.name} {str(self.request)[:60]!r}"


CASES = [Case(method, request) for method in WRITES for request in requests_of(method)]


def check_refused(scoped: Client, rival: Connection, database: Connection, case: Case) -> None:
    """Make the call; it must wait for the rival and then change nothing."""
    call = begin(partial(contract.send, scoped.channel, case.method, case.request))
    wait_until_blocked(database)
    rival.commit()
    before = rows(database)

    with refused(case.refusal):
        call.result(MAX_WAIT_SECONDS)

    assert rows(database) == before


@pytest.mark.parametrize("case", CASES, ids=str)
def test_access_scope_session_moved_away_during_wait_is_not_written(
    scoped: Client, rival: Connection, database: Connection, case: Case
) -> None:
    add(scoped)
    rival.execute(MOVE_SESSION, ["bob"])

    check_refused(scoped, rival, database, case)


CREATING = [case for case in CASES if case.creates]


@pytest.mark.parametrize("case", CREATING, ids=str)
def test_access_scope_deleted_session_moved_away_during_wait_is_not_restored(
    scoped: Client, rival: Connection, database: Connection, case: Case
) -> None:
    add(scoped)
    database.execute("UPDATE sessions SET deleted_at = now()")
    database.execute("UPDATE messages SET deleted_at = now()")
    rival.execute(MOVE_SESSION, ["bob"])

    check_refused(scoped, rival, database, case)


@pytest.mark.parametrize("case", CREATING, ids=str)
def test_access_scope_session_created_by_other_during_wait_is_not_written(
    scoped: Client, rival: Connection, database: Connection, case: Case
) -> None:
    rival.execute("INSERT INTO sessions (session_id, user_id) VALUES ('s', 'bob')")

    check_refused(scoped, rival, database, case)


def test_access_scope_session_moved_to_user_during_wait_is_written(
    scoped: Client, rival: Connection, database: Connection
) -> None:
    add(scoped)
    rival.execute(MOVE_SESSION, ["ada"])
    call = begin(lambda: scoped.update_session("s"))
    wait_until_blocked(database)

    rival.commit()

    assert call.result(MAX_WAIT_SECONDS).user_id == "ada"
