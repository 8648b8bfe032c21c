"""MemoryService.SearchMemory: scopes, filters, limits, access, and searches during writes."""

from datetime import UTC, datetime
from functools import partial
from itertools import product
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, PreconditionFailure, ResourceInfo
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import DeleteMessagesRequest, MessageFilter, SearchMemoryRequest
from tests.conftest import StartServer
from tests.support.callers import OTHER_OWNERS, OTHER_USER, add_others_session
from tests.support.client import Client, refused, struct, wait_until
from tests.support.concurrency import Connection, at_once, begin, crowd, wait_until_blocked
from tests.support.database_setups import READ_FROM_PRIMARY
from tests.support.endpoint import Endpoint
from tests.support.searching import found, say, search
from tests.support.vectors import embed, of_user

TEXTS = ["", "word"]  # without text only the filter decides


# --- Contract ----------------------------------------------------------------------------------


def alike(word: str, text: str) -> bool:
    pairs = zip(embed(of_user(word)), embed(text), strict=True)
    return sum(one * other for one, other in pairs) > 0.3


@pytest.mark.vectors
def test_search_memory_hybrid_merges_keyword_and_semantic_results(
    start_server: StartServer, endpoint: Endpoint
) -> None:
    palaver = start_server(**endpoint.settings)
    # The endpoint embeds similar vectors for these texts, which share no word.
    akin = "word641627"
    assert all(alike(akin, text) for text in ("tree house", '"tree house"'))
    say(palaver, "s", ("user", "tree house"), ("user", akin))
    semantic = partial(found, palaver, "tree house", mode=SearchMemoryRequest.SEMANTIC)
    hybrid = partial(found, palaver, mode=SearchMemoryRequest.HYBRID)
    wait_until(lambda: set(semantic()) == {"tree house", akin})

    assert found(palaver, "tree house") == ["tree house"]
    assert hybrid("tree house") == ["tree house", akin]
    assert hybrid('"tree house"') == ["tree house"]
    assert hybrid("tree house", min_score=0.4) == ["tree house"]

    response = search(palaver, "tree", mode=SearchMemoryRequest.MODE_UNSPECIFIED)
    assert response.mode == SearchMemoryRequest.HYBRID


@pytest.fixture
def talks(palaver: Client) -> Client:
    """A client of a server with four sessions: of two users, and of no user."""
    say(palaver, "a1", ("user", "word a1"), user_id="ada")
    say(palaver, "a2", ("user", "word a2"), user_id="ada")
    say(palaver, "b1", ("user", "word b1"), user_id="bob")
    say(palaver, "n1", ("user", "word n1"))
    return palaver


def test_search_memory_scope_finds_only_its_messages(talks: Client) -> None:
    for text in TEXTS:
        assert set(found(talks, text)) == {"word a1", "word a2", "word b1", "word n1"}
        assert found(talks, text, session_id="n1") == ["word n1"]
        assert set(found(talks, text, user_id="ada")) == {"word a1", "word a2"}
        assert found(talks, text, user_id="nobody") == []
        assert set(found(talks, text, session_id_prefix="a")) == {"word a1", "word a2"}
        assert found(talks, text, session_id_prefix="a1") == ["word a1"]
        assert found(talks, text, session_id_prefix="_1") == []


def test_search_memory_unknown_session_is_not_found(talks: Client) -> None:
    talks.delete_memory("a1")

    for session_id, text in product(("a1", "never"), TEXTS):
        with refused(grpc.StatusCode.NOT_FOUND) as refusal:
            search(talks, text, session_id=session_id)
        assert refusal.detail(ResourceInfo).resource_name == session_id
    assert found(talks, text, user_id="ada") == ["word a2"]


def test_search_memory_messages_follow_session_to_another_user(talks: Client) -> None:
    talks.update_session("b1", user_id="ada")

    assert found(talks, "b1", user_id="ada") == ["word b1"]
    assert found(talks, "b1", user_id="bob") == []


def day(number: int) -> Timestamp:
    moment = Timestamp()
    moment.FromDatetime(datetime(2026, 1, number, tzinfo=UTC))
    return moment


@pytest.fixture
def dated(palaver: Client, database: Connection) -> Client:
    """A client of a server with one message on each of the first three days of a year."""
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


def test_search_memory_filter_narrows_results(dated: Client) -> None:
    for (narrowed, expected), text, scope in product(NARROWED, TEXTS, SCOPES):
        contents = found(dated, text, filter=narrowed, **scope)
        assert set(contents) == expected, (narrowed, text, scope)


def test_search_memory_filter_holds_for_matches_of_a_word(palaver: Client) -> None:
    say(palaver, "s", ("Ann", "the zoo"), ("Bob", "fine"), ("Cid", "good"))

    assert set(found(palaver, "zoo Bob Cid")) == {"the zoo", "fine", "good"}
    assert found(palaver, "zoo Bob Cid", filter=MessageFilter(roles=["Ann", "Bob"])) == [
        "fine", "the zoo",
    ]  # fmt: skip


def test_search_memory_deleted_is_not_found_until_restored(palaver: Client) -> None:
    say(palaver, "s", ("user", "kept word"), ("user", "deleted word"))
    request = DeleteMessagesRequest(session_id="s", message_ids=["deleted word"])

    palaver.memory.DeleteMessages(request)
    for text in TEXTS:
        assert found(palaver, text) == found(palaver, text, session_id="s") == ["kept word"]

    palaver.delete_memory("s")
    say(palaver, "s", ("user", "deleted word"))
    for text in TEXTS:
        assert found(palaver, text) == found(palaver, text, session_id="s") == ["deleted word"]


def test_search_memory_updated_content_is_found_by_new_words(palaver: Client) -> None:
    say(palaver, "s", ("user", "apple"), ("user", "pear"))

    palaver.update_message("s", "apple", content="banana")
    assert found(palaver, "apple") == []
    assert found(palaver, "bananas") == ["banana"]

    say(palaver, "s", ("user", "pear"))  # upserted, and the same
    palaver.update_message("s", "pear", metadata=struct(kind="fruit"))
    assert found(palaver, "pear") == ["pear"]


def test_search_memory_upserted_content_is_found_by_new_words(palaver: Client) -> None:
    added = palaver.add("s", "apple").messages[0]
    message = search(palaver, "apple").results[0].message
    message.content = "cherry"
    assert message.message_id == added.message_id

    palaver.add_memory("s", [message])

    assert found(palaver, "apple") == []
    assert found(palaver, "cherry") == ["cherry"]


def test_search_memory_semantic_mode_without_embedder_is_refused(palaver: Client) -> None:
    palaver.add("s", "word")

    for mode in (SearchMemoryRequest.SEMANTIC, SearchMemoryRequest.HYBRID):
        with refused(grpc.StatusCode.FAILED_PRECONDITION) as refusal:
            search(palaver, "word", mode=mode)
        (violation,) = refusal.detail(PreconditionFailure).violations
        assert "PALAVER_EMBEDDER" in violation.description

    response = search(palaver, "word", mode=SearchMemoryRequest.MODE_UNSPECIFIED)
    assert response.mode == SearchMemoryRequest.KEYWORD
    assert len(response.results) == 1


# --- Limits ------------------------------------------------------------------------------------


contents = st.text(
    st.sampled_from(" ab'\"\\-:*&|!<>()东京กิ😀é\u0301\u2028\x01\x02\x7f")
    | st.characters(codec="utf-8", exclude_characters="\0"),
    max_size=60,
)

any_times = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@any_times
@given(content=contents, text=contents)
def test_search_memory_any_text_is_a_valid_query(palaver: Client, content: str, text: str) -> None:
    palaver.add("s", content)

    for result in search(palaver, text).results:
        assert 0 < result.score <= 1
        assert result.snippet.strip("…").replace("**", "") in " ".join(
            result.message.content.split()
        )
    search(palaver, content, diversity=0.5)


@any_times
@given(st.text(st.characters(categories=["Lu", "Ll", "Lo", "Nd"]), min_size=1, max_size=30))
def test_search_memory_content_is_found_by_itself(palaver: Client, word: str) -> None:
    """The prefix `x` keeps the word from being a stop word."""
    palaver.add("s", f"x{word}")

    assert f"x{word}" in found(palaver, f"x{word}", session_id="s", limit=100)


NOTHING_TO_LOOK_FOR = [
    "...",
    "?!",
    "the",
    "who is it",
    '""',
    "-",
    "-word",
    "😀",
    "' \" \\",
    "|&!:*()",
]


def test_search_memory_text_without_words_finds_nothing(palaver: Client) -> None:
    palaver.add("s", "the word?!")

    for text in NOTHING_TO_LOOK_FOR:
        assert found(palaver, text) == [], text


MIB = 1024 * 1024

LARGE = {
    "one word": "x" * MIB,
    "different words": " ".join(f"{number:x}" for number in range(150_000)),
    "compounds": " ".join(f"a{number:x}-b{number:x}" for number in range(60_000)),
    "signs": ".-" * (MIB // 2),
    "spaces": " " * MIB,
    "Chinese": "".join(chr(0x4E00 + number * 7919 % 20_000) for number in range(MIB // 3)),
    "rare Chinese": "".join(chr(0x20000 + number * 7919 % 40_000) for number in range(MIB // 4)),
    "what one form makes longer": "\ufdfa" * (MIB // 3),
}


@pytest.mark.slow
def test_search_memory_largest_contents_are_stored_and_found(
    palaver: Client, subtests: pytest.Subtests
) -> None:
    for kind, large in LARGE.items():
        with subtests.test(kind):
            content = f"beginning {large}".encode()[:MIB].decode(errors="ignore")
            palaver.add(kind, content)

            (result,) = search(palaver, "beginning", session_id=kind).results
            assert result.message.content == content
            assert result.snippet.startswith("**beginning**")
            search(palaver, large)
            search(palaver, f'"{large[:-2]}"')


BAD: dict[str, list[dict[str, Any]]] = {
    "text": [{"text": "x" * (1024 * 1024 + 1)}, {"text": "nul \0"}],
    "session_id": [{"session_id": ""}, {"session_id": "x" * 1025}],
    "user_id": [{"user_id": ""}, {"user_id": "nul \0"}],
    "session_id_prefix": [{"session_id_prefix": ""}, {"session_id_prefix": "x" * 1025}],
    "mode": [{"mode": 4}, {"mode": -1}],
    "limit": [{"limit": -1}, {"limit": 101, "text": "word"}, {"limit": 1001}],
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


def test_search_memory_invalid_field_is_named(palaver: Client) -> None:
    palaver.add("s", "word")

    for field, text in product(BAD, TEXTS):
        for fields in BAD[field]:
            with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
                search(palaver, **{"text": text, **fields})
            (violation,) = refusal.detail(BadRequest).field_violations
            assert violation.field == field, violation


def test_search_memory_all_invalid_fields_are_named_together(palaver: Client) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
        search(palaver, "nul \0", limit=-1, diversity=2, filter=MessageFilter(roles=[""]))

    violations = refusal.detail(BadRequest).field_violations
    assert {violation.field for violation in violations} == {
        "text", "limit", "diversity", "filter.roles[0]",
    }  # fmt: skip


def test_search_memory_default_is_ten_results(palaver: Client) -> None:
    palaver.add("s", *(f"word {number}" for number in range(120)))

    for text in TEXTS:
        assert len(found(palaver, text)) == 10
        assert len(found(palaver, text, limit=100)) == 100
        assert len(found(palaver, text, limit=3)) == 3


def test_search_memory_without_text_returns_up_to_1000_results(palaver: Client) -> None:
    for _ in range(2):
        palaver.add("s", *(["x"] * 600))

    assert len(found(palaver, " ", limit=1000)) == 1000
    assert len(found(palaver, "", session_id="s", limit=101)) == 101


def test_search_memory_results_over_response_size_are_left_out(palaver: Client) -> None:
    for number in range(6):
        palaver.add("s", f"word {number} " + "x" * (1024 * 1024 - 10))

    response = search(palaver, "word")

    assert 3 <= len(response.results) < 6
    assert response.ByteSize() < 4 * 1024 * 1024


def test_search_memory_slow_search_exceeds_search_timeout(
    start_server: StartServer, database_url: str
) -> None:
    palaver = start_server(search_timeout_seconds=0.1, **READ_FROM_PRIMARY)
    palaver.add("s", "word")

    with psycopg.connect(database_url) as rival:
        rival.execute("LOCK TABLE messages")
        for text in TEXTS:
            with refused(grpc.StatusCode.DEADLINE_EXCEEDED) as refusal:
                search(palaver, text)
            assert refusal.detail(ErrorInfo).reason == "DEADLINE_EXCEEDED"

    assert found(palaver, "word") == ["word"], "and the next one is not"


# --- Concurrency -------------------------------------------------------------------------------


def test_search_memory_after_waiting_for_delete_finds_nothing_deleted(
    start_server: StartServer, database: Connection
) -> None:
    palaver = start_server(**READ_FROM_PRIMARY)
    say(palaver, "s", ("user", "kept word"), ("user", "deleted word"))

    for text in ("word", ""):
        with database.transaction():
            database.execute("LOCK TABLE messages")
            call = begin(partial(found, palaver, text))
            wait_until_blocked(database)
            database.execute("UPDATE messages SET deleted_at = now() WHERE sequence = 2")
        assert call.result(20) == ["kept word"]
        database.execute("UPDATE messages SET deleted_at = NULL")


MODES = (SearchMemoryRequest.KEYWORD, SearchMemoryRequest.SEMANTIC, SearchMemoryRequest.HYBRID)


@pytest.mark.vectors
@pytest.mark.slow
def test_search_memory_writers_find_own_writes_and_nothing_deleted(
    start_server: StartServer, endpoint: Endpoint
) -> None:
    server = start_server(**endpoint.settings)

    def live(client: Client, number: int) -> None:
        session_id, word = f"s{number}", f"word{number}"
        for turn in range(4):
            say(client, session_id, ("user", f"{word} old"), ("user", f"{word} other"))
            assert set(found(client, word)) == {f"{word} old", f"{word} other"}
            client.update_message(session_id, f"{word} old", content=f"{word} new")
            assert set(found(client, word)) == {f"{word} new", f"{word} other"}
            if turn % 2:
                request = DeleteMessagesRequest(session_id=session_id, last_n=2)
                client.memory.DeleteMessages(request)
            else:
                client.delete_memory(session_id)
            for mode in MODES:
                contents = found(client, f"{word} old new other", mode=mode, limit=100)
                assert not [content for content in contents if content.startswith(f"{word} ")]

    with crowd([server], 6) as clients:
        at_once(
            [partial(live, client, number) for number, client in enumerate(clients)]
        ).all_succeeded()


# --- Access ------------------------------------------------------------------------------------


def test_search_memory_scoped_caller_finds_only_own_messages(admin: Client, scoped: Client) -> None:
    for owner in OTHER_OWNERS:
        add_others_session(admin, f"of {owner!r}", owner)
    message = Message(message_id="m", role="user", content=f"not {OTHER_USER}")
    admin.add_memory("mine", [message], user_id="ada")

    for text in (OTHER_USER, ""):
        assert found(scoped, text) == found(scoped, text, user_id="ada") == [message.content]
        assert found(scoped, text, session_id="mine") == [message.content]
        assert found(scoped, text, session_id_prefix="m") == [message.content]
        assert found(scoped, text, session_id_prefix="of ") == []
        assert found(scoped, text, user_id=OTHER_USER) == []
        with refused(grpc.StatusCode.NOT_FOUND):
            found(scoped, text, session_id=f"of {OTHER_USER!r}")
        assert len(found(admin, text)) == len(OTHER_OWNERS) + 1

    admin.update_session("mine", user_id=OTHER_USER)
    assert found(scoped, OTHER_USER) == []
