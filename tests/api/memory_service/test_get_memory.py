"""MemoryService.GetMemory: the newest messages that fit a count and a token budget."""

import pytest

from palaver.v1.memory_pb2 import Memory, Message
from tests.conftest import StartServer
from tests.support.client import MAX_RESPONSE_BYTES, Client, struct
from tests.support.concurrency import Connection
from tests.support.rows import insert_messages


def contents_of(memory: Memory) -> list[str]:
    return [message.content for message in memory.messages]


# --- Contract ----------------------------------------------------------------------------------


def test_get_memory_returns_newest_messages_oldest_first(palaver: Client) -> None:
    palaver.add("s", "a", "b", "c", "d")

    memory = palaver.get_memory("s", last_n=2)

    assert contents_of(memory) == ["c", "d"]
    assert memory.has_more


def test_get_memory_all_messages_returned_has_no_more(palaver: Client) -> None:
    palaver.add("s", "a", "b", "c")

    for last_n in (3, 4, 2**31 - 1):
        memory = palaver.get_memory("s", last_n=last_n)

        assert contents_of(memory) == ["a", "b", "c"]
        assert not memory.has_more


def test_get_memory_returns_session_id_and_metadata(palaver: Client) -> None:
    palaver.add_session("s", metadata=struct(plan="pro"))
    palaver.add("s", "a", "b")

    memory = palaver.get_memory("s", last_n=1)

    assert memory.session_id == "s"
    assert memory.metadata == struct(plan="pro")


def test_get_memory_empty_session_returns_no_messages(palaver: Client) -> None:
    palaver.add_session("s", metadata=struct(plan="pro"))

    memory = palaver.get_memory("s", max_tokens=1)

    assert memory == Memory(session_id="s", metadata=struct(plan="pro"))


def test_get_memory_deleted_messages_are_left_out(palaver: Client) -> None:
    palaver.add("s", "a", "b", "c")
    palaver.delete_messages("s", last_n=1)

    memory = palaver.get_memory("s", last_n=2)

    assert contents_of(memory) == ["a", "b"]
    assert not memory.has_more


def add_counted(palaver: Client, *token_counts: int) -> None:
    """Add messages with these token counts, whose contents would count for more."""
    messages = [
        Message(role="user", content=str(count).ljust(4000), token_count=count)
        for count in token_counts
    ]
    palaver.add_memory("s", messages)


def test_get_memory_max_tokens_limits_sum_of_token_counts(
    palaver: Client, subtests: pytest.Subtests
) -> None:
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
            memory = palaver.get_memory("s", max_tokens=max_tokens)

            assert [content.strip() for content in contents_of(memory)] == expected
            assert memory.has_more == (len(expected) < 3)


def test_get_memory_first_message_over_budget_ends_result(palaver: Client) -> None:
    add_counted(palaver, 1, 100, 2)

    memory = palaver.get_memory("s", max_tokens=50)

    assert [content.strip() for content in contents_of(memory)] == ["2"]
    assert memory.has_more


def test_get_memory_max_tokens_and_last_n_both_hold(palaver: Client) -> None:
    add_counted(palaver, 1, 2, 3, 4)

    three = palaver.get_memory("s", max_tokens=9, last_n=4)
    two = palaver.get_memory("s", max_tokens=9, last_n=2)

    assert [content.strip() for content in contents_of(three)] == ["2", "3", "4"]
    assert [content.strip() for content in contents_of(two)] == ["3", "4"]
    assert three.has_more
    assert two.has_more


def test_get_memory_budget_below_newest_message_returns_none_and_has_more(palaver: Client) -> None:
    add_counted(palaver, 2**31 - 1)

    for last_n in (0, 1, 10):
        memory = palaver.get_memory("s", max_tokens=2**31 - 2, last_n=last_n)

        assert contents_of(memory) == []
        assert memory.has_more


def test_get_memory_token_counts_above_32_bits_in_sum_are_added(palaver: Client) -> None:
    add_counted(palaver, 2**31 - 1, 2**31 - 1)

    memory = palaver.get_memory("s", max_tokens=2**31 - 1)

    assert len(memory.messages) == 1
    assert memory.has_more


def test_get_memory_unknown_token_count_is_a_quarter_of_characters(
    palaver: Client, subtests: pytest.Subtests
) -> None:
    for characters, max_tokens, fitting in (
        (4, 3, 3),
        (1, 1, 4),  # a quarter of a token each
        (3, 1, 1),  # three quarters of a token each
        (3, 3, 4),
        (5, 1, 0),
        (0, 1, 5),
    ):
        with subtests.test(characters=characters, max_tokens=max_tokens):
            session_id = f"{characters} {max_tokens}"
            palaver.add(session_id, *["😀" * characters] * 5)  # characters, not bytes

            memory = palaver.get_memory(session_id, max_tokens=max_tokens)

            assert len(memory.messages) == fitting
            assert memory.has_more == (fitting < 5)


def test_get_memory_known_and_unknown_token_counts_add_up(palaver: Client) -> None:
    messages = [
        Message(role="user", content="x" * 6),  # 1.5
        Message(role="user", content="x" * 400, token_count=2),
        Message(role="user", content="x" * 2),  # 0.5
    ]
    palaver.add_memory("s", messages)

    assert len(palaver.get_memory("s", max_tokens=4).messages) == 3
    assert len(palaver.get_memory("s", max_tokens=3).messages) == 2
    assert len(palaver.get_memory("s", max_tokens=2).messages) == 1


# --- Limits ------------------------------------------------------------------------------------


def test_get_memory_default_window_is_100_or_configured(
    start_server: StartServer, database: Connection
) -> None:
    insert_messages(database, 101)

    by_default = start_server().get_memory("s")
    as_set = start_server(memory_window=3).get_memory("s")

    assert contents_of(by_default) == [str(number) for number in range(2, 102)]
    assert by_default.has_more
    assert contents_of(as_set) == ["99", "100", "101"]


def test_get_memory_returns_at_most_1000_messages(palaver: Client, database: Connection) -> None:
    insert_messages(database, 1001)

    memory = palaver.get_memory("s", last_n=1001)

    assert contents_of(memory) == [str(number) for number in range(2, 1002)]
    assert memory.has_more


def test_get_memory_response_stays_under_4_mib_and_has_more(palaver: Client) -> None:
    for letter in "abcde":
        palaver.add("s", letter * 1024 * 1024)

    memory = palaver.get_memory("s")

    assert [content[0] for content in contents_of(memory)] == ["c", "d", "e"]
    assert memory.has_more
    assert memory.ByteSize() < MAX_RESPONSE_BYTES
