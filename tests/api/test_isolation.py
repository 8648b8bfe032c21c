"""Rows of other users and deleted rows do not affect the answers to a scoped caller."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message as ProtobufMessage
from google.rpc.error_details_pb2 import BadRequest
from psycopg.conninfo import make_conninfo

from palaver.v1.memory_service_pb2 import MessageFilter, SearchMemoryRequest
from palaver.v1.session_pb2 import SessionFilter
from palaver.v1.session_service_pb2 import (
    CountSessionsRequest,
    CountSessionsResponse,
    ListAllSessionsRequest,
    ListSessionsRequest,
)
from palaver_server.auth.roles import Role
from tests.conftest import StartServer
from tests.support.callers import KeysFile, caller
from tests.support.client import Client, refused
from tests.support.concurrency import Connection
from tests.support.searching import KEYWORD

pytestmark = pytest.mark.slow

SESSIONS = 10_000
USERS = 200

# One of 200 sessions is Ada's. All other sessions, and her deleted ones, hold a secret. Her last
# live session is odd, and so are its messages, her oldest.
FILL = f"""
    INSERT INTO sessions (session_id, user_id, metadata, last_sequence, deleted_at)
    SELECT 's' || i, CASE i % {USERS} WHEN 7 THEN 'ada' ELSE 'u' || i % {USERS} END,
        CASE WHEN i % {USERS} = 7 AND i < {SESSIONS} - {USERS} * 10 THEN '{{"plan": "pro"}}'
            ELSE jsonb_build_object('secret', 'p' || i % 50) END,
        3, CASE WHEN i >= {SESSIONS} - {USERS} * 10 AND i % 2 = 1 THEN now() END
    FROM generate_series(1, {SESSIONS}) i;

    UPDATE sessions SET metadata = metadata || '{{"odd": true}}'
    WHERE id = (SELECT max(id) FROM sessions WHERE user_id = 'ada' AND deleted_at IS NULL);

    INSERT INTO messages
        (session_id, sequence, message_id, role, content, words, metadata, created_at,
        deleted_at)
    SELECT session_id, i, 'm' || i, 'user', 'hello', to_tsvector('english', 'hello'), metadata,
        timestamptz '2026-01-01Z' - id * interval '1 minute', deleted_at
    FROM sessions, generate_series(1, 3) i;

    ANALYZE;
"""

# Plans that the planner may prefer one day; all return the same rows.
PLANS = {
    "preferred": {},
    "hash joins": {"enable_nestloop": "off", "enable_mergejoin": "off"},
    "merge joins": {"enable_nestloop": "off", "enable_hashjoin": "off"},
    "no index": {
        "enable_indexscan": "off", "enable_bitmapscan": "off", "enable_indexonlyscan": "off"
    },
    "bitmaps": {"enable_indexscan": "off", "enable_seqscan": "off"},
    "no sort": {"enable_sort": "off"},
}  # fmt: skip

# `@@` does not suppress these errors.
FAILURES = [
    '"2026-01-01".datetime() < "2026-01-01T00:00:00+01".datetime()',
    '"x".datetime("XX") == "x"',
]

REQUESTS: dict[str, Callable[[str], ProtobufMessage]] = {
    "ListSessions": lambda path: ListSessionsRequest(filter=SessionFilter(metadata=path)),
    "CountSessions": lambda path: CountSessionsRequest(filter=SessionFilter(metadata=path)),
    "ListAllSessions": lambda path: ListAllSessionsRequest(filter=SessionFilter(metadata=path)),
    "SearchMemory": lambda path: SearchMemoryRequest(
        text="hello", mode=KEYWORD, filter=MessageFilter(metadata=path)
    ),
    "SearchMemory without text": lambda path: SearchMemoryRequest(
        filter=MessageFilter(metadata=path)
    ),
    "SearchMemory in a session": lambda path: SearchMemoryRequest(
        text="hello", mode=KEYWORD, session_id="s7", filter=MessageFilter(metadata=path)
    ),
    "SearchMemory of a user": lambda path: SearchMemoryRequest(
        text="hello", mode=KEYWORD, user_id="ada", filter=MessageFilter(metadata=path)
    ),
}


@pytest.fixture(params=PLANS)
def ada(
    request: pytest.FixtureRequest,
    database: Connection,
    database_url: str,
    start_server: StartServer,
    keys_file: KeysFile,
) -> Iterator[Client]:
    """A client whose access scope is Ada, who has few of many sessions."""
    database.execute(FILL.encode())
    options = " ".join(f"-c {name}={value}" for name, value in PLANS[request.param].items())
    key = keys_file.add(Role.READER, "ada")
    server = start_server(
        credentials=keys_file.path,
        database_url=make_conninfo(database_url, options=options),
        # The worst plans take seconds on a busy machine.
        search_timeout_seconds=60,
        filter_timeout_seconds=60,
        default_deadline_seconds=60,
    )
    with caller(server.address, key) as client:
        yield client


def test_isolation_path_failing_on_rows_of_others_shows_nothing(
    ada: Client, subtests: pytest.Subtests
) -> None:
    for name, request in REQUESTS.items():
        for failure in FAILURES:
            with subtests.test(request=name, failure=failure):
                path = '$.secret starts with "p" && ' + failure
                narrowed = f'$.plan == "pro" || ({path})'
                assert size(ada.send(request(path))) == 0
                assert size(ada.send(request(narrowed))) > 0

                own = '$.plan starts with "p" && ' + failure
                with refused(grpc.StatusCode.INVALID_ARGUMENT):
                    ada.send(request(own))


def test_isolation_path_failing_on_own_rows_is_refused_in_every_plan_alike(ada: Client) -> None:
    reasons = set()
    for failure in FAILURES:
        path = f"exists($.plan) && (!exists($.odd) || {failure})"
        narrowed = SessionFilter(metadata=path)

        page = ListSessionsRequest(filter=narrowed, limit=2)
        assert size(ada.send(page)) == 2
        searches = [
            SearchMemoryRequest(
                text=text, mode=KEYWORD, limit=1, filter=MessageFilter(metadata=path)
            )
            for text in ("hello", "")
        ]
        for request in (ListSessionsRequest(filter=narrowed, limit=100), *searches):
            with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
                ada.send(request)
            reasons.add(refusal.detail(BadRequest).field_violations[0].description)
    assert len(reasons) == 1


def size(responses: list[Any]) -> int:
    """Count the sessions or results that responses have or count."""
    return sum(map(_size, responses))


def _size(response: Any) -> int:
    if isinstance(response, CountSessionsResponse):
        return response.count
    return len(response.results if hasattr(response, "results") else response.sessions)
