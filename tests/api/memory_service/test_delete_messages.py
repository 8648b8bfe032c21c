"""MemoryService.DeleteMessages: by ids, or the newest ones."""

from collections.abc import Callable
from functools import partial
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import DeleteMessagesRequest, DeleteMessagesResponse
from tests.support.client import Client, refused, struct, violations
from tests.support.concurrency import (
    MAX_WAIT_SECONDS,
    Connection,
    at_once,
    begin,
    wait_until_blocked,
)
from tests.support.rival import ADD_MESSAGE, DELETE_MESSAGES, LOCK_SESSION


def remaining(palaver: Client) -> list[str]:
    memory = palaver.get_memory("s", last_n=1000)
    return [message.message_id for message in memory.messages]


# --- Contract ----------------------------------------------------------------------------------


def test_delete_messages_by_ids_returns_deleted_oldest_first(
    palaver: Client, message: Message
) -> None:
    before = palaver.get_message("s", "before")

    deleted = list(
        palaver.delete_messages("s", message_ids=["m", "unknown", "before", "m"]).messages
    )

    assert deleted == [before, message]
    assert remaining(palaver) == ["after"]
    with refused(grpc.StatusCode.NOT_FOUND):
        palaver.get_message("s", "m")
    with refused(grpc.StatusCode.NOT_FOUND):
        palaver.update_message("s", "m", content="changed")


def test_delete_messages_last_n_returns_deleted_oldest_first(
    palaver: Client, message: Message
) -> None:
    after = palaver.get_message("s", "after")

    deleted = palaver.delete_messages("s", last_n=2).messages

    assert deleted == [message, after]
    assert remaining(palaver) == ["before"]


def test_delete_messages_repeated_pops_return_one_message_each(
    palaver: Client, message: Message
) -> None:
    popped = [palaver.delete_messages("s", last_n=1).messages for _ in range(4)]

    ids = [[message.message_id for message in messages] for messages in popped]
    assert ids == [["after"], ["m"], ["before"], []]


def test_delete_messages_unknown_ids_delete_nothing(palaver: Client, message: Message) -> None:
    palaver.delete_messages("s", message_ids=["after"])
    before = palaver.get_session("s")

    assert palaver.delete_messages("s", message_ids=["after", "unknown"]).messages == []
    assert palaver.get_session("s") == before


def test_delete_messages_last_n_above_message_count_deletes_all(
    palaver: Client, message: Message
) -> None:
    deleted = palaver.delete_messages("s", last_n=1000).messages

    assert len(deleted) == 3
    assert remaining(palaver) == []


def test_delete_messages_deleted_sequences_are_not_reused(
    palaver: Client, message: Message
) -> None:
    palaver.delete_messages("s", last_n=3)

    added = palaver.add("s", "new")

    assert added.messages[0].sequence == 4
    assert palaver.get_session("s").last_sequence == 4


# --- Limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "path"),
    [({"message_ids": ["m"], "last_n": 1}, "last_n"), ({}, "last_n")],
    ids=["both", "none"],
)
def test_delete_messages_both_or_neither_of_ids_and_last_n_is_refused(
    palaver: Client, message: Message, fields: dict[str, Any], path: str
) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
        palaver.delete_messages("s", **fields)

    assert path in {violation.field for violation in refusal.detail(BadRequest).field_violations}
    assert remaining(palaver) == ["before", "m", "after"]


MIB = 1024 * 1024


@pytest.mark.parametrize("by_ids", [False, True])
def test_delete_messages_messages_over_response_size_are_refused_and_kept(
    palaver: Client, *, by_ids: bool
) -> None:
    ids = ["a", "b", "c", "d"]
    for message_id in ids:
        palaver.add_memory("s", [Message(message_id=message_id, role="user", content="x" * MIB)])
    before = palaver.get_session("s")

    with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
        palaver.delete_messages("s", **({"message_ids": ids} if by_ids else {"last_n": 4}))

    (violation,) = refusal.detail(BadRequest).field_violations
    assert violation.field == ("message_ids" if by_ids else "last_n")
    assert palaver.get_session("s") == before
    assert len(palaver.delete_messages("s", last_n=3).messages) == 3


@pytest.mark.parametrize("metadata", ["text", "numbers"])
def test_delete_messages_large_metadata_within_response_size_is_deleted(
    palaver: Client, metadata: str
) -> None:
    # In each case about 2 MiB as protobuf.
    value = struct(a="x" * 60_000) if metadata == "text" else struct(a=[1e308] * 5000)
    messages = [Message(role="user", metadata=value) for _ in range(35)]
    palaver.add_memory("s", messages)

    deleted = palaver.delete_messages("s", last_n=35).messages

    assert len(deleted) == 35


def test_delete_messages_invalid_ids_are_named_by_path(palaver: Client) -> None:
    request = DeleteMessagesRequest(session_id="s", message_ids=["a", "", "b", "x" * 1025])

    fields = violations(lambda: palaver.memory.DeleteMessages(request))

    assert fields == ["message_ids[1]", "message_ids[3]"]


# --- Concurrency -------------------------------------------------------------------------------


def pop(client: Client, session_id: str, count: int = 1) -> list[Message]:
    request = DeleteMessagesRequest(session_id=session_id, last_n=count)
    return list(client.memory.DeleteMessages(request).messages)


def test_delete_messages_simultaneous_pops_return_different_messages(callers: list[Client]) -> None:
    contents = [f"message {index}" for index in range(20)]
    callers[0].add("s", *contents)

    popped = at_once([partial(pop, caller, "s") for caller in callers]).all_succeeded()

    assert [len(messages) for messages in popped].count(1) == len(contents)
    assert sorted(m.content for messages in popped for m in messages) == sorted(contents)
    assert callers[0].messages("s") == []


def test_delete_messages_pops_during_adds_remove_only_returned_messages(
    callers: list[Client],
) -> None:
    callers[0].add("s", "first")

    def add(number: int) -> list[Message]:
        callers[number].add("s", f"{number} a", f"{number} b")
        return []

    calls: list[Callable[[], list[Message]]] = [
        partial(add, number) if number % 2 else partial(pop, caller, "s", 3)
        for number, caller in enumerate(callers)
    ]
    popped = [message for call in at_once(calls).all_succeeded() for message in call]

    left = callers[0].messages("s")
    assert sorted(m.sequence for m in popped + left) == list(range(1, len(callers) + 2))
    assert len({m.content for m in popped + left}) == len(callers) + 1
    assert callers[0].get_session("s").last_sequence == len(callers) + 1


def test_delete_messages_simultaneous_deletes_by_id_return_each_message_once(
    callers: list[Client],
) -> None:
    added = callers[0].add("s", *(f"message {index}" for index in range(10)))
    message_ids = [message.message_id for message in added.messages]

    def delete(number: int) -> DeleteMessagesResponse:
        some = message_ids[number % 5 :]
        return callers[number].delete_messages("s", message_ids=[*reversed(some), "unknown"])

    responses = at_once([partial(delete, n) for n in range(len(callers))]).all_succeeded()

    returned = [m.message_id for response in responses for m in response.messages]
    assert sorted(returned) == sorted(message_ids)
    for response in responses:
        sequences = [message.sequence for message in response.messages]
        assert sequences == sorted(sequences)


def delete_and_name(client: Client, *message_ids: str, last_n: int = 0) -> list[str]:
    request = DeleteMessagesRequest(session_id="s", message_ids=message_ids, last_n=last_n)
    deleted = client.memory.DeleteMessages(request, timeout=MAX_WAIT_SECONDS)
    return [f"{message.message_id}{message.sequence}" for message in deleted.messages]


@pytest.mark.usefixtures("abc")
def test_delete_messages_last_n_takes_newest_after_lock_wait(
    palaver: Client, rival: Connection, database: Connection
) -> None:
    rival.execute(ADD_MESSAGE, ["d"])
    call = begin(lambda: delete_and_name(palaver, last_n=1))
    wait_until_blocked(database)
    rival.commit()
    assert call.result(MAX_WAIT_SECONDS) == ["d4"]

    rival.execute(LOCK_SESSION)
    rival.execute(DELETE_MESSAGES + " AND message_id = 'c'")
    call = begin(lambda: delete_and_name(palaver, last_n=1))
    wait_until_blocked(database)
    rival.commit()
    assert call.result(MAX_WAIT_SECONDS) == ["b2"]


@pytest.mark.usefixtures("abc")
def test_delete_messages_by_id_takes_message_with_id_after_lock_wait(
    palaver: Client, rival: Connection, database: Connection
) -> None:
    rival.execute(LOCK_SESSION)
    rival.execute("DELETE FROM messages WHERE message_id IN ('a', 'b')")
    rival.execute(ADD_MESSAGE, ["a"])
    call = begin(lambda: delete_and_name(palaver, "a", "b", "c"))
    wait_until_blocked(database)

    rival.commit()

    assert call.result(MAX_WAIT_SECONDS) == ["c3", "a4"]


def test_delete_messages_overlapping_pops_return_different_messages(palaver: Client) -> None:
    palaver.add("s", *(str(number) for number in range(10)))

    calls = [
        palaver.memory.DeleteMessages.future(DeleteMessagesRequest(session_id="s", last_n=1))
        for _ in range(12)
    ]

    popped = [message.content for call in calls for message in call.result().messages]
    assert sorted(popped) == [str(number) for number in range(10)]
