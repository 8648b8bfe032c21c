"""SearchMemory: where it looks, and what it leaves out."""

from datetime import UTC, datetime
from itertools import product
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, PreconditionFailure, ResourceInfo

from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    DeleteMemoryRequest,
    DeleteMessagesRequest,
    MessageFilter,
    SearchMemoryRequest,
    UpdateMessageRequest,
)
from palaver.v1.session_service_pb2 import UpdateSessionRequest
from tests.conftest import StartServer
from tests.support.client import Client, refused, struct
from tests.support.searching import found, say, search

TEXTS = ["", "word"]  # without text the filter alone decides

Connection = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture
def talks(palaver: Client) -> Client:
    """A client of a server with four sessions, of two users and of none."""
    say(palaver, "a1", ("user", "word a1"), user_id="ada")
    say(palaver, "a2", ("user", "word a2"), user_id="ada")
    say(palaver, "b1", ("user", "word b1"), user_id="bob")
    say(palaver, "n1", ("user", "word n1"))
    return palaver


def test_a_scope_holds_its_messages_and_no_others(talks: Client) -> None:
    for text in TEXTS:
        assert set(found(talks, text)) == {"word a1", "word a2", "word b1", "word n1"}
        assert found(talks, text, session_id="n1") == ["word n1"]
        assert set(found(talks, text, user_id="ada")) == {"word a1", "word a2"}
        assert found(talks, text, user_id="nobody") == []


def test_a_session_that_is_not_there_is_not_found(talks: Client) -> None:
    talks.memory.DeleteMemory(DeleteMemoryRequest(session_id="a1"))

    for session_id, text in product(("a1", "never"), TEXTS):
        with refused(grpc.StatusCode.NOT_FOUND) as refusal:
            search(talks, text, session_id=session_id)
        assert refusal.detail(ResourceInfo).resource_name == session_id
    assert found(talks, text, user_id="ada") == ["word a2"]


def test_the_messages_follow_their_session_to_another_user(talks: Client) -> None:
    talks.sessions.UpdateSession(UpdateSessionRequest(session_id="b1", user_id="ada"))

    assert found(talks, "b1", user_id="ada") == ["word b1"]
    assert found(talks, "b1", user_id="bob") == []


def day(number: int) -> Timestamp:
    moment = Timestamp()
    moment.FromDatetime(datetime(2026, 1, number, tzinfo=UTC))
    return moment


@pytest.fixture
def dated(palaver: Client, database: Connection) -> Client:
    """A client of a server with a message of each of the first three days of a year."""
    turns = [("user", "word 1"), ("assistant", "word 2"), ("tool", "word 3")]
    say(palaver, "s", *turns, user_id="u")
    database.execute(
        """
        UPDATE messages
        SET created_at = make_timestamptz(2026, 1, sequence::integer, 0, 0, 0, 'UTC'),
            metadata = jsonb_build_object('n', sequence)
        """
    )
    return palaver


NARROWED: list[tuple[MessageFilter, set[str]]] = [
    (MessageFilter(), {"word 1", "word 2", "word 3"}),
    (MessageFilter(roles=["user", "tool"]), {"word 1", "word 3"}),
    (MessageFilter(roles=["nobody"]), set()),
    (MessageFilter(created_after=day(2)), {"word 2", "word 3"}),
    (MessageFilter(created_before=day(2)), {"word 1"}),
    (MessageFilter(metadata="$.n > 1"), {"word 2", "word 3"}),
    (MessageFilter(metadata="$.n > 1", created_before=day(3)), {"word 2"}),
    (MessageFilter(roles=["user"], created_after=day(2)), set()),
]
SCOPES: list[dict[str, str]] = [{}, {"session_id": "s"}, {"user_id": "u"}]


def test_a_filter_narrows(dated: Client) -> None:
    for (narrowed, expected), text, scope in product(NARROWED, TEXTS, SCOPES):
        contents = found(dated, text, filter=narrowed, **scope)
        assert set(contents) == expected, (narrowed, text, scope)


def test_a_filter_holds_for_what_stands_beside_a_word(palaver: Client) -> None:
    say(palaver, "s", ("Ann", "the zoo"), ("Bob", "fine"), ("Cid", "good"))

    assert set(found(palaver, "zoo Bob Cid")) == {"the zoo", "fine", "good"}
    assert found(palaver, "zoo Bob Cid", filter=MessageFilter(roles=["Ann", "Bob"])) == [
        "fine", "the zoo",
    ]  # fmt: skip


def test_what_is_deleted_is_not_found_and_found_again_when_it_is_back(palaver: Client) -> None:
    say(palaver, "s", ("user", "kept word"), ("user", "deleted word"))
    request = DeleteMessagesRequest(session_id="s", message_ids=["deleted word"])

    palaver.memory.DeleteMessages(request)
    for text in TEXTS:
        assert found(palaver, text) == found(palaver, text, session_id="s") == ["kept word"]

    palaver.memory.DeleteMemory(DeleteMemoryRequest(session_id="s"))
    say(palaver, "s", ("user", "deleted word"))
    for text in TEXTS:
        assert found(palaver, text) == found(palaver, text, session_id="s") == ["deleted word"]


def test_a_changed_content_is_found_by_what_it_says_now(palaver: Client) -> None:
    say(palaver, "s", ("user", "apple"), ("user", "pear"))

    palaver.memory.UpdateMessage(
        UpdateMessageRequest(session_id="s", message_id="apple", content="banana")
    )
    assert found(palaver, "apple") == []
    assert found(palaver, "bananas") == ["banana"]

    say(palaver, "s", ("user", "pear"))  # upserted, and the same
    palaver.memory.UpdateMessage(
        UpdateMessageRequest(session_id="s", message_id="pear", metadata=struct(kind="fruit"))
    )
    assert found(palaver, "pear") == ["pear"]


def test_an_upserted_content_is_found_by_what_it_says_now(palaver: Client) -> None:
    added = palaver.add("s", "apple").messages[0]
    message = search(palaver, "apple").results[0].message
    message.content = "cherry"
    assert message.message_id == added.message_id

    palaver.memory.AddMemory(AddMemoryRequest(session_id="s", messages=[message]))

    assert found(palaver, "apple") == []
    assert found(palaver, "cherry") == ["cherry"]


BAD: dict[str, list[dict[str, Any]]] = {
    "text": [{"text": "x" * (1024 * 1024 + 1)}, {"text": "nul \0"}],
    "session_id": [{"session_id": ""}, {"session_id": "x" * 1025}],
    "user_id": [{"user_id": ""}, {"user_id": "nul \0"}],
    "mode": [{"mode": 4}, {"mode": -1}],
    "limit": [{"limit": -1}, {"limit": 101}],
    "filter.roles": [{"filter": MessageFilter(roles=["r"] * 101)}],
    "filter.roles[1]": [
        {"filter": MessageFilter(roles=["a", role])} for role in ("", "x" * 65, "nul \0")
    ],
    "filter.created_after": [{"filter": MessageFilter(created_after=Timestamp(seconds=2**40))}],
    "filter.created_before": [{"filter": MessageFilter(created_before=Timestamp(nanos=-1))}],
    "filter.metadata": [
        {"filter": MessageFilter(metadata=path), "mode": mode}
        for path in ("$.", "$.a == $b", "x" * 4097, "$.a.datetime() < 1 || 1")
        for mode in (SearchMemoryRequest.MODE_UNSPECIFIED, SearchMemoryRequest.KEYWORD)
    ],
    "min_score": [{"min_score": number} for number in (-0.1, 1.1, float("nan"), float("inf"))],
    "diversity": [{"diversity": number} for number in (-0.1, 1.1, float("nan"))],
}


def test_a_bad_field_is_named(palaver: Client) -> None:
    palaver.add("s", "word")

    for field, text in product(BAD, TEXTS):
        for fields in BAD[field]:
            with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
                search(palaver, **{"text": text, **fields})
            (violation,) = refusal.detail(BadRequest).field_violations
            assert violation.field == field, violation


def test_all_bad_fields_are_named_at_once(palaver: Client) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
        search(palaver, "nul \0", limit=-1, diversity=2, filter=MessageFilter(roles=[""]))

    violations = refusal.detail(BadRequest).field_violations
    assert {violation.field for violation in violations} == {
        "text", "limit", "diversity", "filter.roles[0]",
    }  # fmt: skip


def test_ten_results_unless_the_request_says_how_many(palaver: Client) -> None:
    palaver.add("s", *(f"word {number}" for number in range(120)))

    for text in TEXTS:
        assert len(found(palaver, text)) == 10
        assert len(found(palaver, text, limit=100)) == 100
        assert len(found(palaver, text, limit=3)) == 3


def test_results_that_exceed_a_response_are_left_out(palaver: Client) -> None:
    for number in range(6):
        palaver.add("s", f"word {number} " + "x" * (1024 * 1024 - 10))

    response = search(palaver, "word")

    assert 3 <= len(response.results) < 6
    assert response.ByteSize() < 4 * 1024 * 1024


def test_without_an_embedder_there_is_no_search_by_meaning(palaver: Client) -> None:
    palaver.add("s", "word")

    for mode in (SearchMemoryRequest.SEMANTIC, SearchMemoryRequest.HYBRID):
        with refused(grpc.StatusCode.FAILED_PRECONDITION) as refusal:
            search(palaver, "word", mode=mode)
        (violation,) = refusal.detail(PreconditionFailure).violations
        assert "PALAVER_EMBEDDER" in violation.description

    response = search(palaver, "word", mode=SearchMemoryRequest.MODE_UNSPECIFIED)
    assert response.mode == SearchMemoryRequest.KEYWORD
    assert len(response.results) == 1


def test_a_search_that_takes_too_long_is_ended(
    start_server: StartServer, database_url: str
) -> None:
    palaver = start_server(search_timeout_seconds=0.1)
    palaver.add("s", "word")

    with psycopg.connect(database_url) as rival:
        rival.execute("LOCK TABLE messages")
        for text in TEXTS:
            with refused(grpc.StatusCode.DEADLINE_EXCEEDED) as refusal:
                search(palaver, text)
            assert refusal.detail(ErrorInfo).reason == "DEADLINE_EXCEEDED"

    assert found(palaver, "word") == ["word"], "and the next one is not"
