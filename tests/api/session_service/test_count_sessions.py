"""SessionService.CountSessions: what it counts, and where it stops. See also the filter's tests."""

import grpc
import pytest

from palaver.v1.session_pb2 import SessionFilter
from palaver.v1.session_service_pb2 import CountSessionsRequest, CountSessionsResponse
from tests.support.client import Client, refused, struct, violations
from tests.support.concurrency import Connection

# --- Contract ----------------------------------------------------------------------------------


def test_count_sessions_counts_live_sessions_up_to_the_limit(palaver: Client) -> None:
    palaver.add_sessions(*"abcde")
    palaver.delete_session("c")

    assert palaver.count_sessions() == CountSessionsResponse(count=4)
    assert palaver.count_sessions(limit=4) == CountSessionsResponse(count=4)
    assert palaver.count_sessions(limit=3) == CountSessionsResponse(count=3, has_more=True)
    assert palaver.count_sessions(session_id_prefix="x") == CountSessionsResponse()


def test_count_sessions_stops_at_10000_by_default(palaver: Client, database: Connection) -> None:
    database.execute("INSERT INTO sessions (session_id) SELECT generate_series(1, 10001)")

    assert palaver.count_sessions() == CountSessionsResponse(count=10_000, has_more=True)
    assert palaver.count_sessions(limit=1_000_000) == CountSessionsResponse(count=10_001)


# --- Limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["$.a ==", "$.a == $x"])
def test_count_sessions_invalid_path_is_named(palaver: Client, path: str) -> None:
    request = CountSessionsRequest(filter=SessionFilter(metadata=path))

    assert violations(lambda: palaver.sessions.CountSessions(request)) == ["filter.metadata"]


# --- Access ------------------------------------------------------------------------------------


def test_count_sessions_scoped_caller_counts_only_own_sessions(
    admin: Client, scoped: Client
) -> None:
    admin.add_sessions("a1", "a2", user_id="ada", metadata=struct(plan="pro"))
    admin.add_sessions("b1", "b2", user_id="bob", metadata=struct(plan="pro"))
    admin.add_session("n1")

    assert scoped.count_sessions().count == 2
    assert scoped.count_sessions(metadata='$.plan == "pro"').count == 2
    assert scoped.count_sessions(metadata='$.plan == "pro"', limit=1).has_more
    assert scoped.count_sessions(user_id="bob").count == 0
    assert admin.count_sessions().count == 5


def test_count_sessions_path_that_fails_on_sessions_of_others_shows_nothing(
    admin: Client, scoped: Client
) -> None:
    admin.add_session("mine", user_id="ada", metadata=struct(at="2024-05-01T00:00:00+01"))
    admin.add_session("theirs", user_id="bob", metadata=struct(at="2024-05-01"))
    path = '$.at.datetime() < "2024-05-02T00:00:00+01".datetime()'

    assert scoped.count_sessions(metadata=path).count == 1
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        admin.count_sessions(metadata=path)
