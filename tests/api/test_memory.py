"""MemoryService.GetMemory and DeleteMemory: the newest messages that fit."""

from typing import Any

import grpc
import psycopg
import pytest

from palaver.v1.memory_pb2 import Memory, Message
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    DeleteMemoryRequest,
    DeleteMessagesRequest,
    GetMemoryRequest,
)
from palaver.v1.session_service_pb2 import AddSessionRequest, GetSessionRequest
from tests.conftest import StartServer
from tests.support.client import Client, refused, struct

MAX_RESPONSE_BYTES = 4 * 1024 * 1024


def get_memory(palaver: Client, **fields: Any) -> Memory:
    return palaver.memory.GetMemory(GetMemoryRequest(session_id="s", **fields))


def contents(memory: Memory) -> list[str]:
    return [message.content for message in memory.messages]


def add_counted(palaver: Client, *token_counts: int) -> None:
    """Adds messages of these token counts, with contents that would count for more."""
    messages = [
        Message(role="user", content=str(count).ljust(4000), token_count=count)
        for count in token_counts
    ]
    palaver.memory.AddMemory(AddMemoryRequest(session_id="s", messages=messages))


def add_many(database: psycopg.Connection[tuple[Any, ...]], messages: int) -> None:
    """Adds a session of as many messages, whose contents are their sequences."""
    database.execute(
        "INSERT INTO sessions (session_id, last_sequence) VALUES ('s', %s)", [messages]
    )
    database.execute(
        "INSERT INTO messages (session_id, sequence, message_id, role, content)"
        " SELECT 's', number, number, 'user', number FROM generate_series(1, %s) AS number",
        [messages],
    )


def test_memory_is_the_newest_messages_oldest_first(palaver: Client) -> None:
    palaver.add("s", "a", "b", "c", "d")

    memory = get_memory(palaver, last_n=2)

    assert contents(memory) == ["c", "d"]
    assert memory.has_more


def test_there_is_no_more_when_all_messages_are_there(palaver: Client) -> None:
    palaver.add("s", "a", "b", "c")

    for last_n in (3, 4, 2**31 - 1):
        memory = get_memory(palaver, last_n=last_n)

        assert contents(memory) == ["a", "b", "c"]
        assert not memory.has_more


def test_memory_has_the_sessions_id_and_metadata(palaver: Client) -> None:
    palaver.sessions.AddSession(AddSessionRequest(session_id="s", metadata=struct(plan="pro")))
    palaver.add("s", "a", "b")

    memory = get_memory(palaver, last_n=1)

    assert memory.session_id == "s"
    assert memory.metadata == struct(plan="pro")


def test_the_memory_of_an_empty_session_is_empty(palaver: Client) -> None:
    palaver.sessions.AddSession(AddSessionRequest(session_id="s", metadata=struct(plan="pro")))

    memory = get_memory(palaver, max_tokens=1)

    assert memory == Memory(session_id="s", metadata=struct(plan="pro"))


def test_the_window_is_100_messages_unless_set_otherwise(
    start_server: StartServer, database: psycopg.Connection[tuple[Any, ...]]
) -> None:
    add_many(database, 101)

    by_default = get_memory(start_server())
    as_set = get_memory(start_server(memory_window=3))

    assert contents(by_default) == [str(number) for number in range(2, 102)]
    assert by_default.has_more
    assert contents(as_set) == ["99", "100", "101"]


def test_at_most_1000_messages_are_returned(
    palaver: Client, database: psycopg.Connection[tuple[Any, ...]]
) -> None:
    add_many(database, 1001)

    memory = get_memory(palaver, last_n=1001)

    assert contents(memory) == [str(number) for number in range(2, 1002)]
    assert memory.has_more


def test_deleted_messages_are_no_memory(palaver: Client) -> None:
    palaver.add("s", "a", "b", "c")
    palaver.memory.DeleteMessages(DeleteMessagesRequest(session_id="s", last_n=1))

    memory = get_memory(palaver, last_n=2)

    assert contents(memory) == ["a", "b"]
    assert not memory.has_more


def test_messages_fit_the_tokens_together(palaver: Client, subtests: pytest.Subtests) -> None:
    add_counted(palaver, 10, 20, 30)

    for max_tokens, expected in {
        60: ["10", "20", "30"],
        59: ["20", "30"],
        50: ["20", "30"],
        49: ["30"],
        30: ["30"],
        29: [],
    }.items():
        with subtests.test(max_tokens=max_tokens):
            memory = get_memory(palaver, max_tokens=max_tokens)

            assert [content.strip() for content in contents(memory)] == expected
            assert memory.has_more == (len(expected) < 3)


def test_a_message_that_does_not_fit_ends_the_memory(palaver: Client) -> None:
    add_counted(palaver, 1, 100, 2)

    memory = get_memory(palaver, max_tokens=50)

    assert [content.strip() for content in contents(memory)] == ["2"]
    assert memory.has_more


def test_budget_and_last_n_hold_both(palaver: Client) -> None:
    add_counted(palaver, 1, 2, 3, 4)

    three = get_memory(palaver, max_tokens=9, last_n=4)
    two = get_memory(palaver, max_tokens=9, last_n=2)

    assert [content.strip() for content in contents(three)] == ["2", "3", "4"]
    assert [content.strip() for content in contents(two)] == ["3", "4"]
    assert three.has_more
    assert two.has_more


def test_when_nothing_fits_the_memory_is_empty_and_has_more(palaver: Client) -> None:
    add_counted(palaver, 2**31 - 1)

    for last_n in (0, 1, 10):
        memory = get_memory(palaver, max_tokens=2**31 - 2, last_n=last_n)

        assert contents(memory) == []
        assert memory.has_more


def test_a_budget_holds_counts_that_exceed_32_bits_together(palaver: Client) -> None:
    add_counted(palaver, 2**31 - 1, 2**31 - 1)

    memory = get_memory(palaver, max_tokens=2**31 - 1)

    assert len(memory.messages) == 1
    assert memory.has_more


def test_an_unknown_count_is_a_quarter_of_the_characters(
    palaver: Client, subtests: pytest.Subtests
) -> None:
    for characters, max_tokens, fitting in (
        (4, 3, 3),
        (1, 1, 4),  # a quarter each
        (3, 1, 1),  # three quarters each
        (3, 3, 4),
        (5, 1, 0),
        (0, 1, 5),
    ):
        with subtests.test(characters=characters, max_tokens=max_tokens):
            session_id = f"{characters} {max_tokens}"
            palaver.add(session_id, *["😀" * characters] * 5)  # characters, not bytes

            memory = palaver.memory.GetMemory(
                GetMemoryRequest(session_id=session_id, max_tokens=max_tokens)
            )

            assert len(memory.messages) == fitting
            assert memory.has_more == (fitting < 5)


def test_known_and_unknown_counts_add_up(palaver: Client) -> None:
    messages = [
        Message(role="user", content="x" * 6),  # 1.5
        Message(role="user", content="x" * 400, token_count=2),
        Message(role="user", content="x" * 2),  # 0.5
    ]
    palaver.memory.AddMemory(AddMemoryRequest(session_id="s", messages=messages))

    assert len(get_memory(palaver, max_tokens=4).messages) == 3
    assert len(get_memory(palaver, max_tokens=3).messages) == 2
    assert len(get_memory(palaver, max_tokens=2).messages) == 1


def test_memory_stays_under_4_mib_and_says_that_there_is_more(palaver: Client) -> None:
    for letter in "abcde":
        palaver.add("s", letter * 1024 * 1024)

    memory = get_memory(palaver)

    assert [content[0] for content in contents(memory)] == ["c", "d", "e"]
    assert memory.has_more
    assert memory.ByteSize() < MAX_RESPONSE_BYTES


def test_delete_memory_deletes_the_session_and_its_messages(palaver: Client) -> None:
    palaver.add("s", "a", "b")
    before = palaver.sessions.GetSession(GetSessionRequest(session_id="s"))

    deleted = palaver.memory.DeleteMemory(DeleteMemoryRequest(session_id="s"))

    assert deleted.messages_deleted == 2
    assert deleted.deleted_at.ToNanoseconds() >= before.updated_at.ToNanoseconds()
    with refused(grpc.StatusCode.NOT_FOUND):
        get_memory(palaver)
    with refused(grpc.StatusCode.NOT_FOUND):
        palaver.sessions.GetSession(GetSessionRequest(session_id="s"))
