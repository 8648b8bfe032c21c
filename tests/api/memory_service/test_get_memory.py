"""MemoryService.GetMemory: the newest messages that fit a count and a token budget."""

import math
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import BadRequest

from palaver.v1.memory_pb2 import Memory, Message
from palaver.v1.memory_service_pb2 import MessageFilter
from tests.conftest import StartServer
from tests.support.client import MAX_RESPONSE_BYTES, Client, refused, struct
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


@pytest.mark.parametrize(
    ("content", "tokens"),
    [
        ("漢字", 2),
        ("ひらがなカタカナ", 8),
        ("한국어", 3),
        ("ㄅㄆ", 2),
        ("「、」。", 4),
        ("𠀀", 1),
        ("漢字 kana", 3.25),
        ("Привет", 1.5),
        ("สวัสดี", 1.5),
        ("नमस्ते", 1.5),
    ],
)
def test_get_memory_unknown_token_count_is_a_token_per_east_asian_character(
    palaver: Client, content: str, tokens: float
) -> None:
    palaver.add("s", *[content] * 4)

    assert len(palaver.get_memory("s", max_tokens=int(4 * tokens)).messages) == 4
    assert len(palaver.get_memory("s", max_tokens=math.ceil(4 * tokens) - 1).messages) == 3


# --- Roles of the window -----------------------------------------------------------------------


def add_roles(palaver: Client, *roles: str, **fields: Any) -> None:
    """Add a message of each role, with the role and a number as its content."""
    palaver.add_memory(
        "s",
        [
            Message(role=role, content=f"{role} {number}", **fields)
            for number, role in enumerate(roles, 1)
        ],
    )


def test_get_memory_start_roles_leave_out_older_messages(palaver: Client) -> None:
    add_roles(palaver, "user", "assistant", "tool", "assistant", "user")

    memory = palaver.get_memory("s", last_n=4, start_roles=["user", "assistant"])
    trimmed = palaver.get_memory("s", last_n=3, start_roles=["user", "assistant"])

    assert contents_of(memory) == ["assistant 2", "tool 3", "assistant 4", "user 5"]
    assert contents_of(trimmed) == ["assistant 4", "user 5"]
    assert trimmed.has_more


def test_get_memory_no_message_of_start_roles_returns_none_and_has_more(palaver: Client) -> None:
    add_roles(palaver, "user", "tool", "tool")

    memory = palaver.get_memory("s", last_n=2, start_roles=["user"])

    assert contents_of(memory) == []
    assert memory.has_more


def test_get_memory_pinned_roles_are_returned_though_older(palaver: Client) -> None:
    add_roles(palaver, "system", "user", "assistant", "user", "assistant")

    memory = palaver.get_memory("s", last_n=3, pinned_roles=["system"])

    assert contents_of(memory) == ["system 1", "user 4", "assistant 5"]
    assert memory.has_more


def test_get_memory_pinned_messages_within_the_window_take_no_more_room(palaver: Client) -> None:
    add_roles(palaver, "system", "user", "system", "user")

    memory = palaver.get_memory("s", last_n=4, pinned_roles=["system"])

    assert contents_of(memory) == ["system 1", "user 2", "system 3", "user 4"]
    assert not memory.has_more


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_get_memory_pins_the_newest_16(palaver: Client, role: str) -> None:
    add_roles(palaver, *[role] * 20, *["user"] * 30)

    memory = palaver.get_memory("s", last_n=20, pinned_roles=[role, "absent"])

    assert contents_of(memory)[:16] == [f"{role} {number}" for number in range(5, 21)]
    assert contents_of(memory)[16:] == [f"user {number}" for number in range(47, 51)]


def test_get_memory_pinned_messages_take_precedence_in_the_budget(palaver: Client) -> None:
    add_roles(palaver, "system", "user", "user", "user", token_count=10)

    two = palaver.get_memory("s", max_tokens=29, pinned_roles=["system"])
    one = palaver.get_memory("s", max_tokens=19, pinned_roles=["system"])
    none = palaver.get_memory("s", max_tokens=9, pinned_roles=["system"])

    assert contents_of(two) == ["system 1", "user 4"]
    assert contents_of(one) == ["system 1"]
    assert contents_of(none) == []
    assert none.has_more


def test_get_memory_start_roles_trim_the_window_but_no_pinned_message(palaver: Client) -> None:
    add_roles(palaver, "user", "tool", "system", "tool", "user")

    memory = palaver.get_memory("s", last_n=4, start_roles=["user"], pinned_roles=["system"])

    assert contents_of(memory) == ["system 3", "user 5"]


def test_get_memory_pinned_deleted_messages_are_left_out(palaver: Client) -> None:
    add_roles(palaver, "system", "user", "user")
    palaver.delete_messages("s", message_ids=[palaver.messages("s")[0].message_id])

    assert contents_of(palaver.get_memory("s", last_n=1, pinned_roles=["system"])) == ["user 3"]


# --- Filter, session and count -----------------------------------------------------------------


def test_get_memory_last_n_counts_what_passes_the_filter(palaver: Client) -> None:
    add_roles(palaver, "user", "tool", "user", "tool", "tool")

    memory = palaver.get_memory("s", last_n=1, filter=MessageFilter(roles=["user"]))
    both = palaver.get_memory("s", last_n=2, filter=MessageFilter(roles=["user"]))

    assert contents_of(memory) == ["user 3"]
    assert memory.has_more
    assert contents_of(both) == ["user 1", "user 3"]
    assert not both.has_more


def test_get_memory_filters_by_time_and_metadata(palaver: Client) -> None:
    palaver.add_memory(
        "s",
        [
            Message(
                role="user",
                content=str(day),
                created_at=Timestamp(seconds=86_400 * day),
                metadata=struct(even=day % 2 == 0),
            )
            for day in range(6)
        ],
    )

    passing = MessageFilter(
        created_after=Timestamp(seconds=86_400), created_before=Timestamp(seconds=86_400 * 4)
    )
    by_time = palaver.get_memory("s", filter=passing)
    passing.metadata = "$.even == true"
    by_both = palaver.get_memory("s", filter=passing)

    assert contents_of(by_time) == ["1", "2", "3"]
    assert contents_of(by_both) == ["2"]


def test_get_memory_invalid_path_of_filter_is_refused(palaver: Client) -> None:
    palaver.add("s", "a")

    with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
        palaver.get_memory("s", filter=MessageFilter(metadata="$.a =="))

    assert refusal.detail(BadRequest).field_violations[0].field == "filter.metadata"


def test_get_memory_return_session_replaces_metadata(palaver: Client) -> None:
    palaver.add_session("s", metadata=struct(plan="pro"))
    palaver.add("s", "a")

    memory = palaver.get_memory("s", return_session=True)

    assert memory.session == palaver.get_session("s")
    assert not memory.HasField("metadata")
    assert contents_of(memory) == ["a"]


def test_get_memory_no_messages_has_more_if_there_are_any(palaver: Client) -> None:
    palaver.add_session("empty")
    palaver.add("s", "a", "b")

    assert palaver.get_memory("empty", no_messages=True) == Memory(
        session_id="empty", metadata=struct()
    )
    memory = palaver.get_memory("s", no_messages=True, total_count=True)
    assert memory.has_more
    assert contents_of(memory) == []
    assert memory.total_count == 2


def test_get_memory_total_count_counts_what_passes(palaver: Client) -> None:
    add_roles(palaver, "user", "tool", "user")
    palaver.add_session("empty")

    counted = palaver.get_memory("s", last_n=1, total_count=True)
    users = palaver.get_memory("s", total_count=True, filter=MessageFilter(roles=["user"]))
    none = palaver.get_memory("empty", total_count=True)

    assert (counted.total_count, users.total_count, none.total_count) == (3, 2, 0)
    assert none.HasField("total_count")
    assert not palaver.get_memory("s").HasField("total_count")


@pytest.mark.parametrize(
    "fields",
    [
        {"no_messages": True},
        {"return_session": True},
        {"total_count": True},
        {"pinned_roles": ["system"]},
        {"start_roles": ["system"]},
        {"filter": MessageFilter(roles=["user"])},
    ],
    ids=str,
)
def test_get_memory_window_of_a_missing_session_is_not_found(
    palaver: Client, fields: dict[str, Any]
) -> None:
    with refused(grpc.StatusCode.NOT_FOUND):
        palaver.get_memory("absent", **fields)


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


def test_get_memory_pinned_response_stays_under_4_mib(palaver: Client) -> None:
    for role in ("system", "system", "user", "user", "user"):
        palaver.add_memory("s", [Message(role=role, content=role[0] * 1024 * 1024)])

    memory = palaver.get_memory("s", pinned_roles=["system"])

    assert [content[0] for content in contents_of(memory)] == ["s", "s", "u"]
    assert memory.has_more
    assert memory.ByteSize() < MAX_RESPONSE_BYTES
