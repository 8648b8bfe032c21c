"""Placeholder users: created when a session names an unknown user."""

from functools import partial
from typing import Any

import grpc
import pytest

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import AddMemoryRequest
from palaver.v1.session_service_pb2 import AddSessionRequest, UpdateSessionRequest
from palaver.v1.user_pb2 import User
from tests.support.client import Client, refused, struct
from tests.support.concurrency import Connection, at_once
from tests.support.model.tables import audit_tables

# --- Contract ----------------------------------------------------------------------------------


def is_placeholder(user: User) -> bool:
    return not (user.email or user.first_name or user.last_name or user.metadata.fields)


MESSAGE = Message(message_id="m", role="user")

# Requests that give a session to a user; the session "there" exists.
GIVE: dict[str, Any] = {
    "AddSession": AddSessionRequest(session_id="new", user_id="u"),
    "UpdateSession": UpdateSessionRequest(session_id="there", user_id="u"),
    "AddMemory": AddMemoryRequest(session_id="new", user_id="u", messages=[Message(role="user")]),
    "AddMemory with ids": AddMemoryRequest(session_id="new", user_id="u", messages=[MESSAGE]),
    "AddMemory that expects": AddMemoryRequest(
        session_id="new", user_id="u", messages=[Message(role="user")], expected_last_sequence=0
    ),
}


@pytest.mark.parametrize("way", GIVE)
def test_placeholder_user_is_created_for_unknown_user_of_session(palaver: Client, way: str) -> None:
    palaver.add_session("there")

    palaver.send(GIVE[way])

    user = palaver.get_user("u")
    assert is_placeholder(user)
    assert user.created_at == user.updated_at
    assert palaver.session_ids(user_id="u") == [GIVE[way].session_id]


@pytest.mark.parametrize("way", GIVE)
def test_placeholder_user_does_not_replace_known_user(palaver: Client, way: str) -> None:
    palaver.add_session("there")
    added = palaver.add_user("u", email="u@example.com")

    palaver.send(GIVE[way])

    assert palaver.get_user("u") == added


def user_ids(palaver: Client) -> list[str]:
    return [user.user_id for user in palaver.list_users().users]


WITHOUT_EFFECT: dict[str, tuple[Any, grpc.StatusCode | None]] = {
    "AddSession of one that is there": (
        AddSessionRequest(session_id="there", user_id="u"),
        grpc.StatusCode.ALREADY_EXISTS,
    ),
    "UpdateSession of one that is not there": (
        UpdateSessionRequest(session_id="unknown", user_id="u"),
        grpc.StatusCode.NOT_FOUND,
    ),
    "UpdateSession beyond the limits": (
        UpdateSessionRequest(session_id="there", user_id="u", metadata=struct(b="x" * 40_000)),
        grpc.StatusCode.INVALID_ARGUMENT,
    ),
    "AddMemory that expects otherwise": (
        AddMemoryRequest(
            session_id="new", user_id="u", messages=[MESSAGE], expected_last_sequence=1
        ),
        grpc.StatusCode.ABORTED,
    ),
    "AddMemory to one that is there": (
        AddMemoryRequest(session_id="there", user_id="u", messages=[Message(role="user")]),
        None,
    ),
    "AddMemory with ids to one that is there": (
        AddMemoryRequest(session_id="there", user_id="u", messages=[MESSAGE]),
        None,
    ),
    "AddMemory to a deleted one": (
        AddMemoryRequest(session_id="deleted", user_id="u", messages=[Message(role="user")]),
        None,
    ),
    "AddMemory with ids to a deleted one": (
        AddMemoryRequest(session_id="deleted", user_id="u", messages=[MESSAGE]),
        None,
    ),
}


@pytest.mark.parametrize("way", WITHOUT_EFFECT)
def test_placeholder_user_is_not_created_by_call_without_effect(palaver: Client, way: str) -> None:
    palaver.add_session("there", metadata=struct(a="x" * 40_000))
    palaver.add_session("deleted", user_id="its user")
    palaver.delete_session("deleted")
    request, code = WITHOUT_EFFECT[way]

    if code:
        with refused(code):
            palaver.send(request)
    else:
        palaver.send(request)

    assert user_ids(palaver) == ["its user"]


def test_placeholder_user_outlives_its_last_session(palaver: Client) -> None:
    palaver.add_session("deleted", user_id="u")
    palaver.add_session("detached", user_id="u")
    before = palaver.get_user("u")

    palaver.delete_session("deleted")
    palaver.update_session("detached", user_id="")

    assert palaver.get_user("u") == before


@pytest.mark.parametrize("purged", [False, True])
def test_placeholder_user_is_created_for_deleted_id(
    palaver: Client, ada: User, *, purged: bool
) -> None:
    between = palaver.add_user("between")
    deleted = palaver.delete_user("ada")
    if purged:
        palaver.purge()

    palaver.add_session("new", user_id="ada")

    recreated = palaver.get_user("ada")
    assert recreated.id > between.id
    assert recreated.created_at.ToNanoseconds() >= deleted.deleted_at.ToNanoseconds()
    assert recreated.updated_at == recreated.created_at
    assert (recreated.email, recreated.metadata) == ("", struct())
    assert palaver.session_ids(user_id="ada") == ["new"]
    completed = palaver.add_user("ada", email="new")
    assert (completed.id, completed.email) == (recreated.id, "new")


# --- Concurrency -------------------------------------------------------------------------------


def test_placeholder_user_is_created_once_by_simultaneous_sessions(
    callers: list[Client], database: Connection
) -> None:
    def create(number: int) -> None:
        session_id = f"s{number}"
        if number % 2:
            request = AddSessionRequest(session_id=session_id, user_id="u")
            callers[number].sessions.AddSession(request)
        else:
            callers[number].add(session_id, "hello", user_id="u")

    at_once([partial(create, number) for number in range(len(callers))]).all_succeeded()

    deleted = callers[0].delete_user("u")
    assert deleted.sessions_deleted == len(callers)
    audit_tables(database)
