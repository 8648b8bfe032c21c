"""SessionFilter: what narrows ListSessions and ListAllSessions."""

import time
from datetime import UTC, datetime
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import BadRequest

from palaver.v1.memory_service_pb2 import MessageFilter, SearchMemoryRequest
from palaver.v1.session_pb2 import SessionFilter
from palaver.v1.session_service_pb2 import (
    AddSessionRequest,
    ListAllSessionsRequest,
    ListSessionsRequest,
)
from tests.support.client import Client, refused, struct


def add(palaver: Client, session_id: str, *, user_id: str = "", **metadata: Any) -> None:
    palaver.sessions.AddSession(
        AddSessionRequest(session_id=session_id, user_id=user_id, metadata=struct(**metadata))
    )


def listed(palaver: Client, narrowed: SessionFilter) -> list[str]:
    """Lists the ids of the sessions, which page and stream must agree upon, both ways."""
    page = palaver.sessions.ListSessions(ListSessionsRequest(filter=narrowed))
    reverse = palaver.sessions.ListSessions(ListSessionsRequest(filter=narrowed, newest_first=True))
    stream = palaver.sessions.ListAllSessions(ListAllSessionsRequest(filter=narrowed))
    session_ids = [session.session_id for session in page.sessions]
    assert [session.session_id for session in reversed(reverse.sessions)] == session_ids
    assert [session.session_id for chunk in stream for session in chunk.sessions] == session_ids
    return session_ids


def day(number: int, *, nanos: int = 0) -> Timestamp:
    moment = Timestamp()
    moment.FromDatetime(datetime(2024, 5, number, tzinfo=UTC))
    moment.nanos = nanos
    return moment


@pytest.fixture
def created_on_days(palaver: Client, database: psycopg.Connection[tuple[Any, ...]]) -> Client:
    """A client of a server whose sessions 1, 2 and 3 were created on that day."""
    database.execute(
        "INSERT INTO sessions (session_id, created_at)"
        " SELECT number, make_timestamptz(2024, 5, number, 0, 0, 0, 'UTC')"
        " FROM generate_series(1, 3) AS number"
    )
    return palaver


def test_user_id_leaves_the_sessions_of_this_user(palaver: Client) -> None:
    add(palaver, "a", user_id="u")
    add(palaver, "b", user_id="other")
    add(palaver, "c")
    add(palaver, "d", user_id="u")

    assert listed(palaver, SessionFilter(user_id="u")) == ["a", "d"]
    assert listed(palaver, SessionFilter(user_id="nobody")) == []
    assert listed(palaver, SessionFilter()) == ["a", "b", "c", "d"]


def test_created_after_is_inclusive(created_on_days: Client) -> None:
    assert listed(created_on_days, SessionFilter(created_after=day(2))) == ["2", "3"]


def test_created_before_is_exclusive(created_on_days: Client) -> None:
    assert listed(created_on_days, SessionFilter(created_before=day(2))) == ["1"]


def test_creation_is_compared_to_the_nanosecond(created_on_days: Client) -> None:
    a_nanosecond_later = day(2, nanos=1)

    assert listed(created_on_days, SessionFilter(created_after=a_nanosecond_later)) == ["3"]
    assert listed(created_on_days, SessionFilter(created_before=a_nanosecond_later)) == ["1", "2"]


def test_created_after_and_before_make_a_range(created_on_days: Client) -> None:
    narrowed = SessionFilter(created_after=day(2), created_before=day(3))

    assert listed(created_on_days, narrowed) == ["2"]


def test_metadata_is_a_path_predicate(palaver: Client, subtests: pytest.Subtests) -> None:
    add(palaver, "a", plan="pro", seats=5)
    add(palaver, "b", plan="pro", seats=6)
    add(palaver, "c", plan="free", tags=["x", "y"])

    for path, expected in {
        '$.plan == "pro"': ["a", "b"],
        '$.plan == "pro" && $.seats > 5': ["b"],
        '$.tags[*] == "x"': ["c"],
        "exists($.tags)": ["c"],
        "$.seats.double() > 5": ["b"],  # no error where seats is none
        "$.tags.a.b > 1 || $.plan[5] == 1": [],
        "$.plan": [],
    }.items():
        with subtests.test(path=path):
            assert listed(palaver, SessionFilter(metadata=path)) == expected


def test_what_is_set_must_hold_all_together(
    palaver: Client, database: psycopg.Connection[tuple[Any, ...]]
) -> None:
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


def test_pages_go_on_within_the_filter(palaver: Client) -> None:
    for number in range(6):
        add(palaver, str(number), user_id="u" if number % 2 else "other")

    first = palaver.sessions.ListSessions(
        ListSessionsRequest(limit=2, filter=SessionFilter(user_id="u"))
    )
    second = palaver.sessions.ListSessions(
        ListSessionsRequest(limit=2, filter=SessionFilter(user_id="u"), cursor=first.next_cursor)
    )

    assert [session.session_id for session in first.sessions] == ["1", "3"]
    assert [session.session_id for session in second.sessions] == ["5"]
    assert second.next_cursor == 0


def test_what_a_filter_says_is_taken_literally(palaver: Client) -> None:
    odd = "%s %(limit)s {direction} ' OR true; -- \\ \""
    add(palaver, "odd", user_id=odd, plan="% {} '")
    add(palaver, "other", user_id="u")

    assert listed(palaver, SessionFilter(user_id=odd)) == ["odd"]
    assert listed(palaver, SessionFilter(metadata='$.plan == "% {} \'"')) == ["odd"]


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


def test_a_bad_path_is_refused_with_the_reason(palaver: Client, subtests: pytest.Subtests) -> None:
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


def test_a_bad_path_is_refused_where_there_is_no_session_to_try_it_on(
    palaver: Client, subtests: pytest.Subtests
) -> None:
    for path in BAD_PATHS:
        with subtests.test(path=path):
            with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
                palaver.send(ListSessionsRequest(filter=SessionFilter(metadata=path)))

            (violation,) = refusal.detail(BadRequest).field_violations
            assert violation.field == "filter.metadata"


def test_a_path_that_takes_long_to_read_holds_up_nobody(
    palaver: Client, subtests: pytest.Subtests
) -> None:
    palaver.add("s", "hello")
    path = f'$.a like_regex "{"(a|" * 1000}a{")" * 1000}"'

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
