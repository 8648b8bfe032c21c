"""MemoryService.AddMemory: created and restored sessions, ids, sequences, and upserts."""

import uuid
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo

from palaver.v1.memory_pb2 import Memory, Message
from palaver.v1.memory_service_pb2 import AddMemoryRequest
from palaver.v1.session_pb2 import Session
from palaver.v1.user_pb2 import User
from tests.support.client import Client, refused, struct, violations
from tests.support.concurrency import Connection


def state(palaver: Client, session_id: str = "s") -> tuple[Session, Memory]:
    """Return the session and its memory, times included."""
    session = palaver.get_session(session_id)
    return session, palaver.get_memory(session_id)


def said(message_id: str, content: str = "hello", **fields: Any) -> Message:
    return Message(message_id=message_id, role="user", content=content, **fields)


# --- Contract ----------------------------------------------------------------------------------


def test_add_memory_unknown_session_creates_it(palaver: Client) -> None:
    added = palaver.add("s", "hello", user_id="u")

    session = palaver.get_session("s")
    assert (added.session_created, added.session_undeleted) == (True, False)
    assert (session.user_id, session.metadata, session.last_sequence) == ("u", struct(), 1)
    assert session.created_at == session.updated_at == added.messages[0].created_at


def test_add_memory_without_user_creates_session_without_user(palaver: Client) -> None:
    palaver.add("s", "hello", user_id="")

    assert palaver.get_session("s").user_id == ""


@pytest.mark.parametrize("message_id", ["", "m"])
def test_add_memory_user_id_of_existing_session_is_ignored(
    palaver: Client, message_id: str
) -> None:
    palaver.add_session("s", user_id="u")

    added = palaver.add_memory("s", [Message(role="user", message_id=message_id)], user_id="other")

    assert (added.session_created, added.session_undeleted) == (False, False)
    assert palaver.get_session("s").user_id == "u"


@pytest.mark.parametrize("message_id", ["", "m"])
def test_add_memory_deleted_session_is_restored(palaver: Client, message_id: str) -> None:
    before = palaver.add_session("s", user_id="u", metadata=struct(plan="pro"))
    palaver.add_session("later")
    palaver.add("s", "old", "older")
    palaver.delete_session("s")

    added = palaver.add_memory("s", [Message(role="user", message_id=message_id)], user_id="other")

    after = palaver.get_session("s")
    assert (added.session_created, added.session_undeleted) == (False, True)
    assert (after.user_id, after.metadata) == ("u", struct(plan="pro"))
    assert (after.id, after.created_at) == (before.id, before.created_at)
    assert after.last_sequence == added.messages[0].sequence == 3
    listed = palaver.list_sessions()
    assert [session.session_id for session in listed.sessions] == ["s", "later"]


def test_add_memory_restored_session_keeps_old_messages_deleted(palaver: Client) -> None:
    old = palaver.add("s", "one", "two")
    palaver.delete_memory("s")

    palaver.add("s", "three")

    assert palaver.contents("s") == ["three"]
    with refused(grpc.StatusCode.NOT_FOUND):
        palaver.get_message("s", old.messages[0].message_id)


def test_add_memory_messages_get_contiguous_sequences_in_order(palaver: Client) -> None:
    first = palaver.add("s", "a", "b", "c")
    second = palaver.add("s", "d", "e")

    assert [message.sequence for message in first.messages] == [1, 2, 3]
    assert [message.sequence for message in second.messages] == [4, 5]
    assert [(m.sequence, m.content) for m in palaver.get_memory("s").messages] == [
        (1, "a"),
        (2, "b"),
        (3, "c"),
        (4, "d"),
        (5, "e"),
    ]
    assert palaver.get_session("s").last_sequence == 5


def test_add_memory_sequences_of_sessions_are_independent(palaver: Client) -> None:
    palaver.add("other", "a", "b")

    added = palaver.add("s", "c")

    assert added.messages[0].sequence == 1


def moment(*, nanos: int = 0) -> Timestamp:
    moment = Timestamp()
    moment.FromDatetime(datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC))
    moment.nanos = nanos
    return moment


def test_add_memory_returns_message_as_added(palaver: Client) -> None:
    message = Message(
        message_id="m",
        role="assistant",
        content="hello",
        metadata=struct(model="x", usage={"in": 3}),
        token_count=7,
        created_at=moment(nanos=123_456_000),
    )

    added = palaver.add_memory("s", [message])

    (got,) = palaver.get_memory("s").messages
    assert (added.messages[0].message_id, added.messages[0].sequence) == ("m", 1)
    assert added.messages[0].created_at == got.created_at == message.created_at
    assert (got.message_id, got.role, got.content) == ("m", "assistant", "hello")
    assert (got.metadata, got.token_count) == (message.metadata, 7)
    assert got.updated_at == palaver.get_session("s").updated_at


def test_add_memory_output_only_fields_are_ignored(palaver: Client) -> None:
    added = palaver.add_memory(
        "s", [Message(role="user", sequence=-40, updated_at=Timestamp(nanos=-1))]
    )

    (got,) = palaver.get_memory("s").messages
    assert added.messages[0].sequence == got.sequence == 1
    assert got.updated_at == got.created_at


def test_add_memory_missing_ids_become_uuid7(palaver: Client) -> None:
    added = palaver.add("s", "a", "b", "c")

    ids = [uuid.UUID(message.message_id) for message in added.messages]
    assert [(i.version, i.variant) for i in ids] == [(7, uuid.RFC_4122)] * 3
    assert len(set(ids)) == 3
    assert [m.message_id for m in palaver.get_memory("s").messages] == [str(i) for i in ids]


def test_add_memory_created_at_is_rounded_down_to_microseconds(palaver: Client) -> None:
    before_1970 = Timestamp(seconds=-1, nanos=999_999_999)

    added = palaver.add_memory(
        "s",
        [
            Message(role="user", created_at=moment(nanos=999_999_999)),
            Message(role="user", created_at=before_1970),
        ],
    )

    assert added.messages[0].created_at == moment(nanos=999_999_000)
    assert added.messages[1].created_at == Timestamp(seconds=-1, nanos=999_999_000)
    assert [m.created_at for m in palaver.get_memory("s").messages] == [
        m.created_at for m in added.messages
    ]


def test_add_memory_created_at_does_not_change_order(palaver: Client) -> None:
    palaver.add("s", "new")

    palaver.add_memory("s", [Message(role="user", content="old", created_at=moment())])

    assert palaver.contents("s") == ["new", "old"]


OLD = Timestamp(seconds=1_000_000_000)


def test_add_memory_known_id_upserts_and_keeps_sequence_and_created_at(palaver: Client) -> None:
    palaver.add_memory(
        "s", [said("a"), said("m", token_count=5, metadata=struct(x=1, y=2)), said("z")]
    )
    before = palaver.get_memory("s").messages[1]

    added = palaver.add_memory(
        "s",
        [
            Message(
                message_id="m",
                role="assistant",
                content="bye",
                token_count=6,
                metadata=struct(x=3),
                created_at=OLD,
            )
        ],
    )

    after = palaver.get_memory("s").messages[1]
    assert (after.role, after.content, after.token_count) == ("assistant", "bye", 6)
    assert after.metadata == struct(x=3)  # replaced, not merged
    assert after.sequence == added.messages[0].sequence == 2
    assert after.created_at == added.messages[0].created_at == before.created_at
    assert after.updated_at.ToNanoseconds() > before.updated_at.ToNanoseconds()
    assert not added.session_created


def test_add_memory_upsert_replaces_omitted_fields(palaver: Client) -> None:
    palaver.add_memory("s", [said("m", token_count=5, metadata=struct(x=1))])

    palaver.add_memory("s", [Message(message_id="m", role="user")])

    (after,) = palaver.get_memory("s").messages
    assert (after.content, after.token_count, after.metadata) == ("", 0, struct())


def test_add_memory_retry_with_ids_changes_nothing(
    palaver: Client, subtests: pytest.Subtests
) -> None:
    for session_id, messages in {
        "plain": [said("a"), said("b")],
        "with all fields": [
            said("a", created_at=OLD, metadata=struct(n=1.5, deep={"x": [None]}), token_count=3)
        ],
        "odd": [said("a", ""), said("b", "😀", metadata=struct(n=[1e308, 0.1]))],
    }.items():
        with subtests.test(session_id):
            request = AddMemoryRequest(session_id=session_id, messages=messages)
            first = palaver.memory.AddMemory(request)
            before = state(palaver, session_id)

            retry = palaver.memory.AddMemory(request)

            assert state(palaver, session_id) == before
            assert retry.messages == first.messages
            assert (retry.session_created, retry.session_undeleted) == (False, False)
            added = palaver.add(session_id, "next")
            assert added.messages[0].sequence == len(messages) + 1


def test_add_memory_retry_with_ids_writes_no_message_row(
    palaver: Client, database: Connection
) -> None:
    messages = [said("a"), said("b")]
    palaver.add_memory("s", messages)
    written = "SELECT message_id, ctid, xmin FROM messages ORDER BY sequence"
    before = database.execute(written).fetchall()

    palaver.add_memory("s", messages)

    assert database.execute(written).fetchall() == before


def test_add_memory_retry_of_longer_request_adds_only_missing_messages(palaver: Client) -> None:
    palaver.add_memory("s", [said("a"), said("b")])
    before = list(palaver.get_memory("s").messages)

    added = palaver.add_memory("s", [said("a"), said("b"), said("c")])

    assert [message.sequence for message in added.messages] == [1, 2, 3]
    assert palaver.get_memory("s").messages[:2] == before


def test_add_memory_known_and_new_ids_mix_in_one_request(palaver: Client) -> None:
    palaver.add_memory("s", [said("a"), said("b")])

    added = palaver.add_memory(
        "s", [said("x"), said("b", "changed"), said(""), said("a"), said("y")]
    )

    given = added.messages[2].message_id
    messages = palaver.get_memory("s").messages
    assert [message.message_id for message in added.messages] == ["x", "b", given, "a", "y"]
    assert [message.sequence for message in added.messages] == [3, 2, 4, 1, 5]
    assert [message.message_id for message in messages] == ["a", "b", "x", given, "y"]
    assert messages[1].content == "changed"


def test_add_memory_upsert_keeps_other_messages(palaver: Client) -> None:
    palaver.add_memory("s", [said("a"), said("b")])
    before = palaver.get_memory("s").messages[0]

    palaver.add_memory("s", [said("a"), said("b", "changed")])

    assert palaver.get_memory("s").messages[0] == before


def test_add_memory_same_id_in_another_session_is_another_message(palaver: Client) -> None:
    palaver.add_memory("other", [said("m", "other")])

    palaver.add_memory("s", [said("m", "mine")])

    other = palaver.get_memory("other")
    assert [message.content for message in other.messages] == ["other"]
    assert palaver.contents("s") == ["mine"]


OLDER = Timestamp(seconds=900_000_000)


def test_add_memory_deleted_id_appends_new_message(palaver: Client) -> None:
    palaver.add_memory(
        "s", [said("m", "old", token_count=5, metadata=struct(x=1), created_at=OLD), said("b")]
    )
    palaver.delete_messages("s", message_ids=["m"])

    added = palaver.add_memory("s", [said("m", "new", created_at=OLDER)])

    messages = palaver.get_memory("s").messages
    assert [(message.message_id, message.sequence) for message in messages] == [("b", 2), ("m", 3)]
    assert added.messages[0].sequence == 3
    assert added.messages[0].created_at == messages[1].created_at == OLDER
    assert (messages[1].content, messages[1].token_count) == ("new", 0)
    assert messages[1].metadata == struct()


def test_add_memory_deleted_id_gets_new_created_at(palaver: Client) -> None:
    palaver.add_memory("s", [said("m", created_at=OLD)])
    palaver.delete_messages("s", message_ids=["m"])

    added = palaver.add_memory("s", [said("m")])

    assert added.messages[0].created_at.seconds > OLD.seconds
    assert palaver.get_memory("s").messages[0].created_at == added.messages[0].created_at


def test_add_memory_ids_of_deleted_session_append_new_messages(palaver: Client) -> None:
    palaver.add_memory("s", [said("a"), said("b")])
    palaver.delete_memory("s")

    added = palaver.add_memory("s", [said("b", "new")])

    assert added.session_undeleted
    (message,) = palaver.get_memory("s").messages
    assert (message.message_id, message.sequence, message.content) == ("b", 3, "new")


def prepare_session(palaver: Client, session: str) -> int:
    """Prepare a new, live or deleted session, and return its last sequence."""
    if session == "new":
        return 0
    messages = [Message(role="user", message_id="known"), Message(role="user")]
    palaver.add_memory("s", messages)
    if session == "deleted":
        palaver.delete_memory("s")
    return 2


@pytest.mark.parametrize("session", ["new", "live", "deleted"])
def test_add_memory_matching_expected_last_sequence_is_added(palaver: Client, session: str) -> None:
    last_sequence = prepare_session(palaver, session)

    added = palaver.add("s", "new", expected_last_sequence=last_sequence)

    assert added.messages[0].sequence == last_sequence + 1
    assert added.session_created == (session == "new")
    assert added.session_undeleted == (session == "deleted")


def visible_state(palaver: Client) -> Any:
    """Return the session and its memory, or None if it does not exist."""
    try:
        return (
            palaver.get_session("s"),
            palaver.get_memory("s"),
        )
    except grpc.RpcError:
        return None


@pytest.mark.parametrize("message_id", ["", "m", "known"])
@pytest.mark.parametrize("session", ["new", "live", "deleted"])
def test_add_memory_other_expected_last_sequence_writes_nothing(
    palaver: Client, session: str, message_id: str
) -> None:
    last_sequence = prepare_session(palaver, session)
    before = visible_state(palaver)

    for wrong in {0, 1, 3, 2**63 - 1} - {last_sequence}:
        with refused(grpc.StatusCode.ABORTED) as refusal:
            palaver.add_memory(
                "s", [Message(role="user", message_id=message_id)], expected_last_sequence=wrong
            )

        info = refusal.detail(ErrorInfo)
        assert info.metadata["last_sequence"] == str(last_sequence)
        assert info.reason
        assert info.domain
        assert visible_state(palaver) == before
    assert palaver.add("s", "right").messages[0].sequence == last_sequence + 1


def test_add_memory_expected_last_sequence_counts_deleted_messages(palaver: Client) -> None:
    palaver.add("s", "a", "b")
    palaver.delete_messages("s", last_n=2)

    added = palaver.add("s", "c", expected_last_sequence=2)

    assert added.messages[0].sequence == 3


def test_add_memory_refused_expected_last_sequence_creates_no_session(palaver: Client) -> None:
    with refused(grpc.StatusCode.ABORTED):
        palaver.add_ids("s", "a", expected_last_sequence=1)

    with refused(grpc.StatusCode.NOT_FOUND):
        palaver.get_session("s")
    assert palaver.add_ids("s", "a", expected_last_sequence=0).session_created


# Messages without ids are added in one statement, messages with ids under a row lock.
WAYS = {
    "without ids": AddMemoryRequest(messages=[Message(role="user", content="new")]),
    "with ids": AddMemoryRequest(messages=[Message(message_id="m", role="user", content="new")]),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("session_id", ["s", "before"])
@pytest.mark.parametrize("user_id", ["", "ada", "bob"])
def test_add_memory_session_deleted_with_user_starts_over(
    palaver: Client, ada: User, way: str, session_id: str, user_id: str
) -> None:
    last = palaver.add_session("last")
    deleted = palaver.delete_user("ada")
    request = AddMemoryRequest(session_id=session_id, user_id=user_id)
    request.MergeFrom(WAYS[way])

    response = palaver.memory.AddMemory(request)

    assert (response.session_created, response.session_undeleted) == (True, False)
    assert [message.sequence for message in response.messages] == [3]
    session = palaver.get_session(session_id)
    assert (session.user_id, session.metadata) == (user_id, struct())
    assert session.id > last.id
    assert session.created_at.ToNanoseconds() >= deleted.deleted_at.ToNanoseconds()
    assert session.last_sequence == 3
    assert palaver.contents(session_id) == ["new"]
    if user_id:
        assert palaver.session_ids(user_id=user_id) == [session_id]
    with refused(grpc.StatusCode.NOT_FOUND):
        palaver.get_user("bob" if user_id == "ada" else "ada")


def test_add_memory_session_started_over_after_user_delete_is_restorable(
    palaver: Client, ada: User
) -> None:
    palaver.delete_user("ada")
    palaver.add_session("s", user_id="bob", metadata=struct(kept=True))
    palaver.delete_session("s")

    response = palaver.add("s", "new")

    assert (response.session_created, response.session_undeleted) == (False, True)
    session = palaver.get_session("s")
    assert (session.user_id, session.metadata) == ("bob", struct(kept=True))


def test_add_memory_session_deleted_with_user_keeps_expected_last_sequence(
    palaver: Client, ada: User
) -> None:
    palaver.delete_user("ada")

    with refused(grpc.StatusCode.ABORTED) as refusal:
        palaver.add("s", "new", user_id="bob", expected_last_sequence=0)
    assert refusal.detail(ErrorInfo).metadata["last_sequence"] == "2"
    with refused(grpc.StatusCode.NOT_FOUND):
        palaver.get_user("bob")

    assert palaver.add("s", "new", expected_last_sequence=2).session_created


def test_add_memory_session_moved_before_user_delete_is_restored(
    palaver: Client, ada: User
) -> None:
    palaver.update_session("s", user_id="bob")
    palaver.delete_session("s")
    palaver.delete_user("ada")

    response = palaver.add("s", "new")

    assert response.session_undeleted
    session = palaver.get_session("s")
    assert (session.user_id, session.metadata) == ("bob", struct(secret=2))
    assert palaver.get_user("bob")


# --- Limits ------------------------------------------------------------------------------------


def test_add_memory_duplicate_ids_are_refused_and_write_nothing(palaver: Client) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
        palaver.add_memory("s", [said("a"), said("b"), said("a"), said("a")])

    assert [v.field for v in refusal.detail(BadRequest).field_violations] == [
        "messages[2].message_id",
        "messages[3].message_id",
    ]
    with refused(grpc.StatusCode.NOT_FOUND):
        palaver.get_memory("s")


def test_add_memory_one_invalid_message_writes_nothing(palaver: Client) -> None:
    palaver.add_memory("s", [said("a")])
    before = state(palaver)

    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        palaver.add_memory("s", [said("a", "changed"), said("b"), Message(message_id="c")])

    assert state(palaver) == before


def test_add_memory_all_invalid_fields_are_named_by_path(palaver: Client) -> None:
    messages = [
        Message(role="user"),
        Message(role="x" * 65, token_count=-1),
        Message(role="", content="\0", metadata=struct(a="\0")),
    ]

    fields = violations(lambda: palaver.add_memory("s", messages, expected_last_sequence=-1))

    assert fields == [
        "messages[1].role",
        "messages[1].token_count",
        "messages[2].role",
        "messages[2].content",
        "messages[2].metadata",
        "expected_last_sequence",
    ]


def test_add_memory_thousand_invalid_messages_fit_the_status(palaver: Client) -> None:
    messages = [Message(role="", content="\0", token_count=-1) for _ in range(1000)]

    with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
        palaver.add_memory("s", messages)

    bad = refusal.detail(BadRequest).field_violations
    assert bad[0].field == "messages[0].role"
    assert refusal.status.ByteSize() < 6000  # in base64, 8 KiB: the limit of clients for metadata


# --- Access ------------------------------------------------------------------------------------


WITHOUT_ID, WITH_ID = Message(role="user"), Message(role="user", message_id="m")


@pytest.mark.parametrize("message", [WITHOUT_ID, WITH_ID], ids=["without ids", "with ids"])
def test_add_memory_session_deleted_with_another_user_is_not_found(
    admin: Client, scoped: Client, database: Connection, message: Message
) -> None:
    admin.add("s", "hello", user_id="theirs")
    admin.delete_user("theirs")
    every_row = "SELECT s::text FROM sessions s UNION ALL SELECT u::text FROM users u"
    before = database.execute(every_row).fetchall()

    with refused(grpc.StatusCode.NOT_FOUND):
        scoped.add_memory("s", [message])
    with refused(grpc.StatusCode.ALREADY_EXISTS):
        scoped.add_session("s")

    assert database.execute(every_row).fetchall() == before
