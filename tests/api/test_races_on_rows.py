"""Changes and deletes of the same rows under concurrency: nothing is lost, nothing done twice."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc
import pytest

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    DeleteMemoryRequest,
    DeleteMessagesRequest,
    DeleteMessagesResponse,
    GetMessageRequest,
    ListMessagesRequest,
    UpdateMessageRequest,
)
from palaver.v1.session_service_pb2 import (
    AddSessionRequest,
    DeleteSessionRequest,
    GetSessionRequest,
    UpdateSessionRequest,
)
from tests.conftest import StartServer
from tests.support.client import Client, refused, struct
from tests.support.concurrency import at_once, crowd, unless_refused


@pytest.fixture
def callers(start_server: StartServer) -> Iterator[list[Client]]:
    """32 callers, spread over two servers on one database."""
    servers = [start_server(pool_timeout_seconds=60) for _ in range(2)]
    with crowd(servers, 32) as callers:
        yield callers


def stored(client: Client, session_id: str) -> list[Message]:
    request = ListMessagesRequest(session_id=session_id, limit=1000)
    return list(client.memory.ListMessages(request).messages)


def last_sequence(client: Client, session_id: str) -> int:
    return client.sessions.GetSession(GetSessionRequest(session_id=session_id)).last_sequence


def pop(client: Client, session_id: str, count: int = 1) -> list[Message]:
    request = DeleteMessagesRequest(session_id=session_id, last_n=count)
    return list(client.memory.DeleteMessages(request).messages)


def test_merges_of_different_keys_into_a_session_all_survive(callers: list[Client]) -> None:
    callers[0].sessions.AddSession(
        AddSessionRequest(session_id="s", user_id="u", metadata=struct(kept=True, gone=True))
    )

    def change(number: int) -> None:
        patch: dict[str, Any] = {f"key {number}": number, "nested": {f"key {number}": number}}
        request = UpdateSessionRequest(session_id="s", metadata=struct(**patch))
        if number == 7:
            request.user_id = "another"
        if number == 9:
            request.metadata["gone"] = None
        callers[number].sessions.UpdateSession(request)

    at_once([partial(change, number) for number in range(len(callers))]).all_succeeded()

    session = callers[0].sessions.GetSession(GetSessionRequest(session_id="s"))
    keys = {f"key {number}": number for number in range(len(callers))}
    assert session.metadata == struct(kept=True, nested=keys, **keys)
    assert session.user_id == "another"


def test_changes_of_different_parts_of_a_message_all_survive(callers: list[Client]) -> None:
    message = Message(message_id="m", role="user", content="was", metadata=struct(kept=True))
    callers[0].memory.AddMemory(AddMemoryRequest(session_id="s", messages=[message]))

    def change(number: int) -> None:
        request = UpdateMessageRequest(session_id="s", message_id="m")
        if number == 0:
            request.role = "assistant"
        elif number == 1:
            request.content = "is"
        elif number == 2:
            request.token_count = 7
        else:
            request.metadata.CopyFrom(struct(nested={f"key {number}": number}))
        callers[number].memory.UpdateMessage(request)

    at_once([partial(change, number) for number in range(len(callers))]).all_succeeded()

    changed = callers[0].memory.GetMessage(GetMessageRequest(session_id="s", message_id="m"))
    assert (changed.role, changed.content, changed.token_count) == ("assistant", "is", 7)
    keys = {f"key {number}": number for number in range(3, len(callers))}
    assert changed.metadata == struct(kept=True, nested=keys)


def test_callers_who_pop_at_once_each_get_another_message(callers: list[Client]) -> None:
    contents = [f"message {index}" for index in range(20)]
    callers[0].add("s", *contents)

    popped = at_once([partial(pop, caller, "s") for caller in callers]).all_succeeded()

    assert [len(messages) for messages in popped].count(1) == len(contents)
    assert sorted(m.content for messages in popped for m in messages) == sorted(contents)
    assert stored(callers[0], "s") == []


def test_what_is_popped_while_others_add_is_gone_and_all_else_is_there(
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

    left = stored(callers[0], "s")
    assert sorted(m.sequence for m in popped + left) == list(range(1, len(callers) + 2))
    assert len({m.content for m in popped + left}) == len(callers) + 1
    assert last_sequence(callers[0], "s") == len(callers) + 1


def test_a_message_that_many_delete_by_id_is_returned_to_one_of_them(
    callers: list[Client],
) -> None:
    added = callers[0].add("s", *(f"message {index}" for index in range(10)))
    message_ids = [message.message_id for message in added.messages]

    def delete(number: int) -> DeleteMessagesResponse:
        some = message_ids[number % 5 :]
        return callers[number].memory.DeleteMessages(
            DeleteMessagesRequest(session_id="s", message_ids=[*reversed(some), "unknown"])
        )

    responses = at_once([partial(delete, n) for n in range(len(callers))]).all_succeeded()

    returned = [m.message_id for response in responses for m in response.messages]
    assert sorted(returned) == sorted(message_ids)
    for response in responses:
        sequences = [message.sequence for message in response.messages]
        assert sequences == sorted(sequences)


def test_a_session_that_many_delete_is_deleted_once(callers: list[Client]) -> None:
    callers[0].add("s", "one", "two", "three")

    def delete(number: int) -> int:
        if number % 2:
            by_service = DeleteSessionRequest(session_id="s")
            return callers[number].sessions.DeleteSession(by_service).messages_deleted
        by_memory = DeleteMemoryRequest(session_id="s")
        return callers[number].memory.DeleteMemory(by_memory).messages_deleted

    outcomes = at_once([partial(delete, number) for number in range(len(callers))])

    assert outcomes.results == [3]
    assert outcomes.refusals == {grpc.StatusCode.NOT_FOUND: len(callers) - 1}


def test_a_message_that_is_upserted_changed_and_deleted_at_once_keeps_its_books(
    callers: list[Client],
) -> None:
    def upsert(caller: Client) -> list[int]:
        message = Message(message_id="m", role="user", content="upserted")
        response = caller.memory.AddMemory(AddMemoryRequest(session_id="s", messages=[message]))
        return [added.sequence for added in response.messages]

    def change(caller: Client) -> list[int]:
        request = UpdateMessageRequest(session_id="s", message_id="m", metadata=struct(a=1))
        changed = unless_refused(
            grpc.StatusCode.NOT_FOUND, lambda: caller.memory.UpdateMessage(request)
        )
        return [changed.sequence] if changed else []

    deleted: list[int] = []

    def delete(caller: Client) -> list[int]:
        request = DeleteMessagesRequest(session_id="s", message_ids=["m"])
        deleted.extend(m.sequence for m in caller.memory.DeleteMessages(request).messages)
        return []

    created = set(upsert(callers[0]))
    ways = [upsert, upsert, change, delete]
    for _ in range(3):
        calls = [partial(ways[number % 4], caller) for number, caller in enumerate(callers)]
        seen = {sequence for call in at_once(calls).all_succeeded() for sequence in call}
        created |= seen

    left = [message.sequence for message in stored(callers[0], "s")]
    assert sorted(deleted + left) == sorted(created), "each was created once and deleted once"
    assert created == set(range(1, len(created) + 1)), "a sequence was burnt"
    assert last_sequence(callers[0], "s") == len(created)
    if not left:
        with refused(grpc.StatusCode.NOT_FOUND):
            callers[0].memory.GetMessage(GetMessageRequest(session_id="s", message_id="m"))
