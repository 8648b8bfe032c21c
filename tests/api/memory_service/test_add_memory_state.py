"""MemoryService.AddMemory: append and state in one transaction, and atomic replacement."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from palaver.v1.memory_pb2 import Message
from palaver.v1.metadata_pb2 import MetadataMode
from tests.conftest import StartServer
from tests.support.client import Client, refused, struct, violations
from tests.support.concurrency import Connection
from tests.support.rows import count_rows

# --- session_must_exist ------------------------------------------------------------------------


def test_add_memory_session_must_exist_creates_and_restores_nothing(
    palaver: Client, database: Connection
) -> None:
    palaver.add("deleted", "old")
    palaver.delete_session("deleted")
    before = count_rows(database, "messages")

    for session_id in ("absent", "deleted"):
        for fields in ({}, {"user_id": "u"}, {"return_session": True}):
            with refused(grpc.StatusCode.NOT_FOUND):
                palaver.add(session_id, "new", session_must_exist=True, **fields)
        with refused(grpc.StatusCode.NOT_FOUND):
            palaver.get_session(session_id)
    assert count_rows(database, "messages") == before
    assert count_rows(database, "users") == 0


def test_add_memory_session_must_exist_appends_to_a_live_session(palaver: Client) -> None:
    palaver.add_session("s")

    palaver.add("s", "a", session_must_exist=True)
    palaver.add_memory("s", named("b"))
    palaver.add_memory(
        "s", [Message(message_id="b", role="user", content="B")], session_must_exist=True
    )

    assert palaver.contents("s") == ["a", "B"]


# --- session_metadata and user_metadata --------------------------------------------------------


def test_add_memory_session_metadata_changes_with_the_messages(palaver: Client) -> None:
    palaver.add_session("s", metadata=struct(a=1, b={"c": 1}))

    palaver.add("s", "x", session_metadata=struct(b={"d": 2}))
    assert palaver.get_session("s").metadata == struct(a=1, b={"c": 1, "d": 2})
    palaver.add(
        "s",
        "y",
        session_metadata=struct(b=None),
        session_metadata_mode=MetadataMode.METADATA_MODE_TOP_LEVEL,
    )
    assert palaver.get_session("s").metadata == struct(a=1, b=None)
    palaver.add(
        "s",
        "z",
        session_metadata=struct(),
        session_metadata_mode=MetadataMode.METADATA_MODE_REPLACE,
    )
    assert palaver.get_session("s").metadata == struct()
    assert palaver.get_session("s").revision == 4


def test_add_memory_metadata_of_a_new_session_and_user(palaver: Client) -> None:
    added = palaver.add(
        "s",
        "x",
        user_id="u",
        session_metadata=struct(a=1, gone=None),
        user_metadata=struct(b=1),
        return_session=True,
    )

    assert added.session_created
    assert added.session == palaver.get_session("s")
    assert added.session.metadata == struct(a=1)
    assert palaver.get_user("u").metadata == struct(b=1)
    with refused(grpc.StatusCode.ALREADY_EXISTS):  # the placeholder is complete
        palaver.add_user("u")


def test_add_memory_user_metadata_is_that_of_the_actual_user(palaver: Client) -> None:
    palaver.add_session("s", user_id="actual")

    palaver.add("s", "x", user_id="other", user_metadata=struct(a=1))

    assert palaver.get_user("actual").metadata == struct(a=1)
    with refused(grpc.StatusCode.NOT_FOUND):
        palaver.get_user("other")


def test_add_memory_user_metadata_that_changes_nothing_leaves_the_user(palaver: Client) -> None:
    before = palaver.add_user("u", metadata=struct(a=1))

    palaver.add("s", "x", user_id="u", user_metadata=struct(a=1))

    assert palaver.get_user("u") == before


def test_add_memory_user_metadata_without_a_user_is_refused_and_writes_nothing(
    palaver: Client,
) -> None:
    palaver.add("s", "x")
    before = palaver.get_session("s")

    for session_id in ("s", "absent"):
        assert violations(
            lambda: palaver.add(session_id, "y", user_metadata=struct(a=1))  # noqa: B023
        ) == ["user_metadata"]
    assert palaver.get_session("s") == before
    assert palaver.contents("s") == ["x"]


def test_add_memory_retry_sets_no_metadata_back(palaver: Client) -> None:
    message = Message(message_id="m", role="user", content="x")
    palaver.add_session("s", user_id="u")
    fields = {"session_metadata": struct(step=1), "user_metadata": struct(step=1)}
    palaver.add_memory("s", [message], **fields)
    palaver.update_session("s", metadata=struct(step=2))
    palaver.update_user("u", metadata=struct(step=2))

    palaver.add_memory("s", [message], **fields)

    assert palaver.get_session("s").metadata == struct(step=2)
    assert palaver.get_user("u").metadata == struct(step=2)


def test_add_memory_restored_session_keeps_and_changes_metadata(palaver: Client) -> None:
    palaver.add_session("s", user_id="u", metadata=struct(a=1))
    palaver.delete_session("s")

    palaver.add("s", "x", session_metadata=struct(b=1), user_metadata=struct(c=1))

    assert palaver.get_session("s").metadata == struct(a=1, b=1)
    assert palaver.get_user("u").metadata == struct(c=1)


def test_add_memory_too_large_resulting_metadata_is_refused_and_writes_nothing(
    palaver: Client,
) -> None:
    palaver.add_session("s", user_id="u", metadata=struct(a="x" * 40_000))
    palaver.add_user("u", metadata=struct(a="x" * 40_000))

    for field in ("session_metadata", "user_metadata"):
        large: dict[str, Any] = {field: struct(b="x" * 40_000)}
        assert violations(lambda: palaver.add("s", "x", **large)) == [field]  # noqa: B023
    assert palaver.contents("s") == []


def test_add_memory_return_session_is_unset_unless_asked_for(palaver: Client) -> None:
    assert not palaver.add("s", "a").HasField("session")
    added = palaver.add("s", "b", return_session=True)

    assert added.session == palaver.get_session("s")
    assert added.session.last_sequence == 2


# --- replace_messages --------------------------------------------------------------------------


def named(*names: str) -> list[Message]:
    return [Message(message_id=name, role="user", content=name) for name in names]


def test_add_memory_replace_messages_replaces_all_with_new_sequences(palaver: Client) -> None:
    palaver.add_memory("s", named("a", "b"))

    replaced = palaver.add_memory("s", named("b", "c"), replace_messages=True)

    assert replaced.messages_deleted == 2
    assert [(one.message_id, one.sequence) for one in replaced.messages] == [("b", 3), ("c", 4)]
    assert [(m.message_id, m.sequence) for m in palaver.messages("s")] == [("b", 3), ("c", 4)]
    assert palaver.get_session("s").last_sequence == 4


@pytest.mark.parametrize("ids", [True, False])
def test_add_memory_replace_messages_by_the_same_changes_nothing(
    palaver: Client, *, ids: bool
) -> None:
    first = palaver.add_memory("s", named("a", "b"))
    before = palaver.get_session("s")
    messages = named("a", "b")
    if not ids:
        for message in messages:
            message.ClearField("message_id")

    again = palaver.add_memory(
        "s", messages, replace_messages=True, session_metadata=struct(a=1), return_session=True
    )

    assert again.messages_deleted == 0
    assert list(again.messages) == list(first.messages)
    assert again.session == before == palaver.get_session("s")


@pytest.mark.parametrize(
    "change",
    [
        lambda messages: messages.reverse(),
        lambda messages: messages.pop(),
        lambda messages: messages.append(named("c")[0]),
        lambda messages: setattr(messages[0], "message_id", "other"),
        lambda messages: setattr(messages[0], "content", "other"),
        lambda messages: setattr(messages[0], "role", "other"),
        lambda messages: setattr(messages[0], "token_count", 1),
        lambda messages: messages[0].metadata.update({"a": 1}),
        lambda messages: messages[0].created_at.CopyFrom(Timestamp(seconds=1)),
    ],
)
def test_add_memory_replace_messages_by_others_replaces_all(
    palaver: Client, change: Callable[[list[Message]], object]
) -> None:
    palaver.add_memory("s", named("a", "b"))
    messages = named("a", "b")
    change(messages)

    assert palaver.add_memory("s", messages, replace_messages=True).messages_deleted == 2
    assert [m.content for m in palaver.messages("s")] == [m.content for m in messages]


def test_add_memory_replace_messages_by_none_empties_the_session(palaver: Client) -> None:
    palaver.add_session("s", metadata=struct(a=1))
    palaver.add("s", "a", "b")

    emptied = palaver.add_memory("s", [], replace_messages=True, return_session=True)

    assert (emptied.messages_deleted, list(emptied.messages)) == (2, [])
    assert palaver.contents("s") == []
    assert emptied.session.metadata == struct(a=1)
    before = palaver.get_session("s")
    palaver.add_memory("s", [], replace_messages=True)
    assert palaver.get_session("s") == before


def test_add_memory_replace_messages_by_none_creates_or_restores(palaver: Client) -> None:
    assert palaver.add_memory("new", [], replace_messages=True, user_id="u").session_created
    assert palaver.get_session("new").user_id == "u"
    assert palaver.get_user("u").user_id == "u"
    palaver.delete_session("new")
    assert palaver.add_memory("new", [], replace_messages=True).session_undeleted
    palaver.delete_user("u")
    assert palaver.add_memory("new", [], replace_messages=True).session_created


def test_add_memory_without_messages_is_refused_unless_it_replaces(palaver: Client) -> None:
    assert violations(lambda: palaver.add_memory("s", [])) == ["messages"]


def test_add_memory_replace_messages_expected_last_sequence(palaver: Client) -> None:
    palaver.add("s", "a")

    with refused(grpc.StatusCode.ABORTED):
        palaver.add_memory("s", named("b"), replace_messages=True, expected_last_sequence=0)
    palaver.add_memory("s", named("b"), replace_messages=True, expected_last_sequence=1)

    assert palaver.contents("s") == ["b"]


# --- Races -------------------------------------------------------------------------------------


@pytest.fixture
def writers(palaver: Client, start_server: StartServer) -> Sequence[Client]:
    """Clients of two servers, by turns."""
    return [palaver, start_server()] * 4


def test_add_memory_race_state_is_that_of_the_last_message(
    writers: Sequence[Client], palaver: Client
) -> None:
    """The state of each append is written with it: states never end in another order."""
    palaver.add_session("s", user_id="u")

    def append(numbered: tuple[int, Client]) -> None:
        number, client = numbered
        for step in range(5):
            name = f"{number}-{step}"
            client.add_memory(
                "s",
                named(name),
                session_metadata=struct(last=name),
                user_metadata=struct(last=name),
            )

    with ThreadPoolExecutor(len(writers)) as threads:
        list(threads.map(append, enumerate(writers)))

    last = palaver.messages("s")[-1].content
    assert palaver.get_session("s").metadata == struct(last=last)
    assert palaver.get_user("u").metadata == struct(last=last)


def test_add_memory_race_replacements_leave_one_whole_list(
    writers: Sequence[Client], palaver: Client
) -> None:
    lists = {number: [f"{number}-{one}" for one in range(3)] for number in range(len(writers))}

    def replace(numbered: tuple[int, Client]) -> Any:
        number, client = numbered
        return client.add_memory("s", named(*lists[number]), replace_messages=True)

    with ThreadPoolExecutor(len(writers)) as threads:
        answers = list(threads.map(replace, enumerate(writers)))

    assert palaver.contents("s") in lists.values()
    assert sum(answer.messages_deleted for answer in answers) == 3 * (len(writers) - 1)


def test_add_memory_race_with_the_same_ids_adds_each_once(
    writers: Sequence[Client], palaver: Client
) -> None:
    def append(client: Client) -> list[int]:
        return [one.sequence for one in client.add_memory("s", named("a", "b")).messages]

    with ThreadPoolExecutor(len(writers)) as threads:
        sequences = list(threads.map(append, writers))

    assert sequences == [[1, 2]] * len(writers)
    assert palaver.contents("s") == ["a", "b"]
