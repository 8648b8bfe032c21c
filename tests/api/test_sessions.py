"""SessionService: what adding, getting and deleting a session promise."""

from typing import Any

import grpc
import psycopg
import pytest
from google.rpc.error_details_pb2 import ResourceInfo

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    DeleteMessagesRequest,
    GetMemoryRequest,
    GetMessageRequest,
    UpdateMessageRequest,
)
from palaver.v1.session_pb2 import Session
from palaver.v1.session_service_pb2 import (
    AddSessionRequest,
    DeleteSessionRequest,
    GetSessionRequest,
    UpdateSessionRequest,
)
from tests.support.client import Client, refused, struct


def get(palaver: Client, session_id: str) -> Session:
    return palaver.sessions.GetSession(GetSessionRequest(session_id=session_id))


def test_an_added_session_is_got_as_it_was_added(palaver: Client) -> None:
    added = palaver.sessions.AddSession(
        AddSessionRequest(session_id="s", user_id="u", metadata=struct(plan="pro"))
    )

    assert added.session_id == "s"
    assert added.user_id == "u"
    assert added.metadata == struct(plan="pro")
    assert added.created_at == added.updated_at
    assert added.id > 0
    assert added.last_sequence == 0
    assert get(palaver, "s") == added


def test_user_and_metadata_are_optional(palaver: Client) -> None:
    palaver.sessions.AddSession(AddSessionRequest(session_id="s"))

    session = get(palaver, "s")

    assert session.user_id == ""
    assert session.metadata == struct()


def test_positions_grow_in_the_order_of_creation(palaver: Client) -> None:
    added = [
        palaver.sessions.AddSession(AddSessionRequest(session_id=session_id))
        for session_id in ("c", "a", "b")
    ]

    assert added[0].id < added[1].id < added[2].id


def test_a_live_session_cannot_be_added(palaver: Client) -> None:
    palaver.sessions.AddSession(AddSessionRequest(session_id="s", user_id="u"))

    with refused(grpc.StatusCode.ALREADY_EXISTS) as refusal:
        palaver.sessions.AddSession(AddSessionRequest(session_id="s", user_id="other"))

    info = refusal.detail(ResourceInfo)
    assert (info.resource_type, info.resource_name) == ("palaver.v1.Session", "s")
    assert get(palaver, "s").user_id == "u"


def test_a_session_that_memory_created_cannot_be_added(palaver: Client) -> None:
    palaver.add("s", "hello")

    with refused(grpc.StatusCode.ALREADY_EXISTS):
        palaver.sessions.AddSession(AddSessionRequest(session_id="s"))


def test_a_deleted_session_is_not_found(palaver: Client) -> None:
    palaver.sessions.AddSession(AddSessionRequest(session_id="s"))
    palaver.sessions.DeleteSession(DeleteSessionRequest(session_id="s"))

    with refused(grpc.StatusCode.NOT_FOUND) as refusal:
        get(palaver, "s")

    info = refusal.detail(ResourceInfo)
    assert (info.resource_type, info.resource_name) == ("palaver.v1.Session", "s")


def test_a_deleted_id_starts_anew_with_what_the_request_says(palaver: Client) -> None:
    old = palaver.sessions.AddSession(
        AddSessionRequest(session_id="s", user_id="old", metadata=struct(old=True))
    )
    between = palaver.sessions.AddSession(AddSessionRequest(session_id="between"))
    palaver.sessions.DeleteSession(DeleteSessionRequest(session_id="s"))

    anew = palaver.sessions.AddSession(
        AddSessionRequest(session_id="s", user_id="new", metadata=struct(new=True))
    )

    assert anew.user_id == "new"
    assert anew.metadata == struct(new=True)
    assert anew.created_at.ToNanoseconds() > old.created_at.ToNanoseconds()
    assert anew.updated_at == anew.created_at
    assert anew.id > between.id
    assert get(palaver, "s") == anew


def test_a_deleted_id_starts_anew_without_the_old_user_and_metadata(palaver: Client) -> None:
    palaver.sessions.AddSession(
        AddSessionRequest(session_id="s", user_id="old", metadata=struct(old=True))
    )
    palaver.sessions.DeleteSession(DeleteSessionRequest(session_id="s"))

    anew = palaver.sessions.AddSession(AddSessionRequest(session_id="s"))

    assert anew.user_id == ""
    assert anew.metadata == struct()


def test_a_session_started_anew_has_none_of_its_old_messages(palaver: Client) -> None:
    added = palaver.add("s", "one", "two")
    palaver.sessions.DeleteSession(DeleteSessionRequest(session_id="s"))

    palaver.sessions.AddSession(AddSessionRequest(session_id="s"))

    memory = palaver.memory.GetMemory(GetMemoryRequest(session_id="s"))
    assert (list(memory.messages), memory.has_more) == ([], False)
    with refused(grpc.StatusCode.NOT_FOUND):
        palaver.memory.GetMessage(
            GetMessageRequest(session_id="s", message_id=added.messages[0].message_id)
        )


def test_the_sequences_of_a_session_started_anew_go_on(palaver: Client) -> None:
    palaver.add("s", "one", "two")
    palaver.sessions.DeleteSession(DeleteSessionRequest(session_id="s"))

    anew = palaver.sessions.AddSession(AddSessionRequest(session_id="s"))
    added = palaver.add("s", "three")

    assert anew.last_sequence == 2
    assert added.messages[0].sequence == 3
    assert get(palaver, "s").last_sequence == 3


def test_delete_says_when_and_how_many_messages(palaver: Client) -> None:
    palaver.add("s", "one", "two", "three")
    palaver.memory.DeleteMessages(DeleteMessagesRequest(session_id="s", last_n=1))
    before = get(palaver, "s").updated_at

    deleted = palaver.sessions.DeleteSession(DeleteSessionRequest(session_id="s"))

    assert deleted.messages_deleted == 2
    assert deleted.deleted_at.ToNanoseconds() >= before.ToNanoseconds()


def test_a_session_and_its_messages_are_deleted_at_one_instant(
    palaver: Client, database: psycopg.Connection[tuple[Any, ...]]
) -> None:
    palaver.add("s", "one", "two")

    deleted = palaver.sessions.DeleteSession(DeleteSessionRequest(session_id="s"))

    instants = database.execute(
        "SELECT deleted_at FROM sessions UNION ALL SELECT deleted_at FROM messages"
    ).fetchall()
    assert len(instants) == 3
    assert {instant.timestamp() for (instant,) in instants} == {
        deleted.deleted_at.ToMicroseconds() / 1_000_000
    }


def test_delete_leaves_other_sessions_alone(palaver: Client) -> None:
    palaver.add("s", "one")
    palaver.add("other", "two")
    before = get(palaver, "other")

    palaver.sessions.DeleteSession(DeleteSessionRequest(session_id="s"))

    assert get(palaver, "other") == before
    memory = palaver.memory.GetMemory(GetMemoryRequest(session_id="other"))
    assert [message.content for message in memory.messages] == ["two"]


def test_a_second_delete_finds_nothing(palaver: Client) -> None:
    palaver.add("s", "one")
    palaver.sessions.DeleteSession(DeleteSessionRequest(session_id="s"))

    with refused(grpc.StatusCode.NOT_FOUND):
        palaver.sessions.DeleteSession(DeleteSessionRequest(session_id="s"))


def test_updated_at_is_when_the_session_or_a_message_last_changed(
    palaver: Client, subtests: pytest.Subtests
) -> None:
    message = Message(message_id="m", role="user", content="one")
    palaver.memory.AddMemory(AddMemoryRequest(session_id="s", messages=[message]))
    message.content = "upserted"

    for change in (
        UpdateSessionRequest(session_id="s", metadata=struct(a=1)),
        AddMemoryRequest(session_id="s", messages=[Message(role="user", content="two")]),
        AddMemoryRequest(session_id="s", messages=[message]),
        UpdateMessageRequest(session_id="s", message_id="m", content="updated"),
        DeleteMessagesRequest(session_id="s", message_ids=["m"]),
    ):
        with subtests.test(type(change).__name__):
            before = get(palaver, "s")

            palaver.send(change)

            after = get(palaver, "s")
            assert after.updated_at.ToNanoseconds() > before.updated_at.ToNanoseconds()
            assert (after.created_at, after.id) == (before.created_at, before.id)
