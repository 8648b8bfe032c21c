"""SessionFilter, which narrows ListSessions and ListAllSessions."""

import time
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import BadRequest

from palaver.v1.memory_service_pb2 import MessageFilter, SearchMemoryRequest
from palaver.v1.session_pb2 import SessionFilter
from palaver.v1.session_service_pb2 import (
    CountSessionsRequest,
    ListAllSessionsRequest,
    ListSessionsRequest,
)
from tests.support.client import Client, refused, struct, violations
from tests.support.concurrency import Connection


def add(palaver: Client, session_id: str, *, user_id: str = "", **metadata: Any) -> None:
    palaver.add_session(session_id, user_id=user_id, metadata=struct(**metadata))


# --- Contract ----------------------------------------------------------------------------------


def listed(palaver: Client, narrowed: SessionFilter) -> list[str]:
    """Return the ids of the sessions; page and stream must agree, in both orders."""
    page = palaver.list_sessions(filter=narrowed)
    reverse = palaver.list_sessions(filter=narrowed, newest_first=True)
    stream = palaver.sessions.ListAllSessions(ListAllSessionsRequest(filter=narrowed))
    session_ids = [session.session_id for session in page.sessions]
    assert [session.session_id for session in reversed(reverse.sessions)] == session_ids
    assert [session.session_id for chunk in stream for session in chunk.sessions] == session_ids
    count = palaver.sessions.CountSessions(CountSessionsRequest(filter=narrowed))
    assert (count.count, count.has_more) == (len(session_ids), False)
    return session_ids


def test_session_filter_user_id_keeps_sessions_of_user(palaver: Client) -> None:
    add(palaver, "a", user_id="u")
    add(palaver, "b", user_id="other")
    add(palaver, "c")
    add(palaver, "d", user_id="u")

    assert listed(palaver, SessionFilter(user_id="u")) == ["a", "d"]
    assert listed(palaver, SessionFilter(user_id="nobody")) == []
    assert listed(palaver, SessionFilter()) == ["a", "b", "c", "d"]


def test_session_filter_prefix_takes_every_character_literally(palaver: Client) -> None:
    palaver.add_sessions("a%", "a%/1", "ab", "a_/1", "A%", "a", "é/1", "\\x")

    assert listed(palaver, SessionFilter(session_id_prefix="a%")) == ["a%", "a%/1"]
    assert listed(palaver, SessionFilter(session_id_prefix="a_")) == ["a_/1"]
    assert listed(palaver, SessionFilter(session_id_prefix="é")) == ["é/1"]
    assert listed(palaver, SessionFilter(session_id_prefix="\\")) == ["\\x"]
    assert listed(palaver, SessionFilter(session_id_prefix="a%/1/")) == []
    assert len(listed(palaver, SessionFilter(session_id_prefix=""))) == 8


def day(number: int, *, nanos: int = 0) -> Timestamp:
    moment = Timestamp()
    moment.FromDatetime(datetime(2024, 5, number, tzinfo=UTC))
    moment.nanos = nanos
    return moment


@pytest.fixture
def created_on_days(palaver: Client, database: Connection) -> Client:
    """A client of a server whose sessions 1, 2 and 3 were created on days 1, 2 and 3."""
    database.execute(
        "INSERT INTO sessions (session_id, created_at, updated_at)"
        " SELECT number, make_timestamptz(2024, 5, number, 0, 0, 0, 'UTC'),"
        " make_timestamptz(2024, 6, number, 0, 0, 0, 'UTC')"
        " FROM generate_series(1, 3) AS number"
    )
    return palaver


def test_session_filter_created_after_is_inclusive(created_on_days: Client) -> None:
    assert listed(created_on_days, SessionFilter(created_after=day(2))) == ["2", "3"]


def test_session_filter_created_before_is_exclusive(created_on_days: Client) -> None:
    assert listed(created_on_days, SessionFilter(created_before=day(2))) == ["1"]


def test_session_filter_created_at_is_compared_to_the_nanosecond(created_on_days: Client) -> None:
    a_nanosecond_later = day(2, nanos=1)

    assert listed(created_on_days, SessionFilter(created_after=a_nanosecond_later)) == ["3"]
    assert listed(created_on_days, SessionFilter(created_before=a_nanosecond_later)) == ["1", "2"]


def test_session_filter_updated_at_is_compared_to_the_nanosecond(created_on_days: Client) -> None:
    second = Timestamp(seconds=day(2).seconds + 31 * 24 * 3600)
    later = Timestamp(seconds=second.seconds, nanos=1)

    assert listed(created_on_days, SessionFilter(updated_after=second)) == ["2", "3"]
    assert listed(created_on_days, SessionFilter(updated_before=second)) == ["1"]
    assert listed(created_on_days, SessionFilter(updated_after=later)) == ["3"]
    assert listed(created_on_days, SessionFilter(updated_before=later)) == ["1", "2"]
    assert listed(created_on_days, SessionFilter(updated_after=second, updated_before=later)) == [
        "2"
    ]


def test_session_filter_updated_after_follows_writes(created_on_days: Client) -> None:
    before = created_on_days.get_session("2").updated_at
    created_on_days.add("2", "x")

    after = created_on_days.get_session("2").updated_at

    assert listed(created_on_days, SessionFilter(updated_after=after)) == ["2"]
    assert listed(created_on_days, SessionFilter(updated_after=before)) == ["2", "3"]


def test_session_filter_created_after_and_before_make_a_range(created_on_days: Client) -> None:
    narrowed = SessionFilter(created_after=day(2), created_before=day(3))

    assert listed(created_on_days, narrowed) == ["2"]


def test_session_filter_metadata_is_a_path_predicate(
    palaver: Client, subtests: pytest.Subtests
) -> None:
    add(palaver, "a", plan="pro", seats=5)
    add(palaver, "b", plan="pro", seats=6)
    add(palaver, "c", plan="free", tags=["x", "y"], trial=True)
    add(palaver, "d", trial=False)

    for path, expected in {
        '$.plan == "pro"': ["a", "b"],
        '$.plan == "pro" && $.seats > 5': ["b"],
        '$.tags[*] == "x"': ["c"],
        "exists($.tags)": ["c"],
        "$.seats.double() > 5": ["b"],  # no error in sessions without seats
        "$.tags.a.b > 1 || $.plan[5] == 1": [],
        "$.plan": [],  # a text is no truth value
        "exists($.plan)": ["a", "b", "c"],
        "$.trial": ["c"],
        "$.trial == true": ["c"],
    }.items():
        with subtests.test(path=path):
            assert listed(palaver, SessionFilter(metadata=path)) == expected


def test_session_filter_all_conditions_must_hold(palaver: Client, database: Connection) -> None:
    for plan in ("pro", "free"):
        for user_id in ("u", "other"):
            for number in (1, 2, 3):
                add(palaver, f"{plan} {user_id} {number}", user_id=user_id, plan=plan)
    database.execute(
        "UPDATE sessions SET created_at ="
        " make_timestamptz(2024, 5, right(session_id, 1)::integer, 0, 0, 0, 'UTC')"
    )

    narrowed = SessionFilter(
        user_id="u", created_after=day(2), created_before=day(3), metadata='$.plan == "pro"'
    )

    assert listed(palaver, narrowed) == ["pro u 2"]


def test_session_filter_pages_continue_within_the_filter(palaver: Client) -> None:
    for number in range(6):
        add(palaver, str(number), user_id="u" if number % 2 else "other")

    first = palaver.list_sessions(limit=2, filter=SessionFilter(user_id="u"))
    second = palaver.list_sessions(
        limit=2, filter=SessionFilter(user_id="u"), cursor=first.next_cursor
    )

    assert [session.session_id for session in first.sessions] == ["1", "3"]
    assert [session.session_id for session in second.sessions] == ["5"]
    assert second.next_cursor == 0


def test_session_filter_values_are_taken_literally(palaver: Client) -> None:
    odd = "%s %(limit)s {direction} ' OR true; -- \\ \""
    add(palaver, "odd", user_id=odd, plan="% {} '")
    add(palaver, "other", user_id="u")

    assert listed(palaver, SessionFilter(user_id=odd)) == ["odd"]
    assert listed(palaver, SessionFilter(metadata='$.plan == "% {} \'"')) == ["odd"]


# --- Limits ------------------------------------------------------------------------------------


BAD_PATHS = {
    "$.a ==": "syntax error",
    "a path": "syntax error",
    "$.a == $x": "variable",
    "$.a == 2 && $.b == $x": "variable",
    '$.a like_regex "("': "regular expression",
    "last == 1": "LAST",
    '$.a == "\\u0000"': "Unicode",
    "$.a == 1e200000": "overflow",
    '"2024-05-01".datetime() < "2024-05-01T00:00:00+01".datetime()': "time zone",
}


def test_session_filter_invalid_path_is_refused_with_reason(
    palaver: Client, subtests: pytest.Subtests
) -> None:
    add(palaver, "s", a=1)

    for path, reason in BAD_PATHS.items():
        narrowed = SessionFilter(metadata=path)
        for request in (
            ListSessionsRequest(filter=narrowed),
            ListAllSessionsRequest(filter=narrowed),
        ):
            with subtests.test(type(request).__name__, path=path):
                with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
                    palaver.send(request)

                (violation,) = refusal.detail(BadRequest).field_violations
                assert violation.field == "filter.metadata"
                assert reason in violation.description


def test_session_filter_invalid_path_is_refused_without_sessions(
    palaver: Client, subtests: pytest.Subtests
) -> None:
    for path in BAD_PATHS:
        with subtests.test(path=path):
            with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
                palaver.send(ListSessionsRequest(filter=SessionFilter(metadata=path)))

            (violation,) = refusal.detail(BadRequest).field_violations
            assert violation.field == "filter.metadata"


@pytest.mark.slow
def test_session_filter_path_slow_to_parse_exceeds_deadline(
    palaver: Client, subtests: pytest.Subtests
) -> None:
    palaver.add("s", "hello")
    path = f'$.a like_regex "{"(ab?)*" * 675}"'  # compiled in 4 s by PostgreSQL 15, and later by 18

    for request in (
        ListSessionsRequest(filter=SessionFilter(metadata=path)),
        ListAllSessionsRequest(filter=SessionFilter(metadata=path)),
        SearchMemoryRequest(text="hello", filter=MessageFilter(metadata=path)),
    ):
        with subtests.test(type(request).__name__):
            started = time.monotonic()
            with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
                palaver.send(request)
            assert time.monotonic() - started < 4


def test_session_filter_all_invalid_fields_are_named_together(palaver: Client) -> None:
    narrowed = SessionFilter(user_id="\0", metadata="x" * 4097)
    narrowed.created_after.seconds = 10**12
    narrowed.created_before.nanos = -1
    expected = ["cursor", "filter.user_id", "filter.created_after", "filter.created_before"]
    expected += ["filter.metadata"]

    page = ListSessionsRequest(limit=1001, cursor=-1, filter=narrowed)
    assert violations(lambda: palaver.sessions.ListSessions(page)) == ["limit", *expected]
    stream = ListAllSessionsRequest(chunk_size=1001, cursor=-1, filter=narrowed)
    fields = violations(lambda: list(palaver.sessions.ListAllSessions(stream)))
    assert fields == ["chunk_size", *expected]


def test_session_filter_invalid_path_of_any_characters_is_named(palaver: Client) -> None:
    palaver.add("s", "hello")
    for path in ("$." + "😀" * 1000 + " ==", '$.a like_regex "(' + "😀" * 1000 + '"', "$" * 4096):
        request = ListSessionsRequest(filter=SessionFilter(metadata=path))

        assert violations(lambda: palaver.sessions.ListSessions(request)) == ["filter.metadata"]  # noqa: B023
