"""The rows of other users, and deleted ones, decide nothing about a bound caller's answers."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.message import Message as ProtobufMessage
from palaver.v1.memory_service_pb2 import MessageFilter, SearchMemoryRequest
from palaver.v1.session_pb2 import SessionFilter
from palaver.v1.session_service_pb2 import ListAllSessionsRequest, ListSessionsRequest
from psycopg.conninfo import make_conninfo

from server.principal import Role
from tests.callers import KeysFile, caller
from tests.client import Client, refused
from tests.conftest import StartServer
from tests.searching import KEYWORD

Connection = psycopg.Connection[tuple[Any, ...]]

SESSIONS = 10_000
USERS = 200

# One of 200 sessions is Ada's. All others have a secret, and so have her deleted ones.
FILL = f"""
    INSERT INTO sessions (session_id, user_id, metadata, last_sequence, deleted_at)
    SELECT 's' || i, CASE i % {USERS} WHEN 7 THEN 'ada' ELSE 'u' || i % {USERS} END,
        CASE WHEN i % {USERS} = 7 AND i < {SESSIONS} - {USERS} * 10 THEN '{{"plan": "pro"}}'
            ELSE jsonb_build_object('secret', 'p' || i % 50) END,
        3, CASE WHEN i >= {SESSIONS} - {USERS} * 10 AND i % 2 = 1 THEN now() END
    FROM generate_series(1, {SESSIONS}) i;

    INSERT INTO messages
        (session_id, sequence, message_id, role, content, words, metadata, deleted_at)
    SELECT session_id, i, 'm' || i, 'user', 'hello', to_tsvector('english', 'hello'), metadata,
        deleted_at
    FROM sessions, generate_series(1, 3) i;

    ANALYZE;
"""

# Plans that the planner may come to prefer; all give the same rows.
PLANS = {
    "preferred": {},
    "hash joins": {"enable_nestloop": "off", "enable_mergejoin": "off"},
    "merge joins": {"enable_nestloop": "off", "enable_hashjoin": "off"},
    "no index": {
        "enable_indexscan": "off", "enable_bitmapscan": "off", "enable_indexonlyscan": "off"
    },
    "bitmaps": {"enable_indexscan": "off", "enable_seqscan": "off"},
}  # fmt: skip

# `@@` does not suppress these errors.
FAILURES = [
    '"2026-01-01".datetime() < "2026-01-01T00:00:00+01".datetime()',
    '"x".datetime("XX") == "x"',
]

REQUESTS: dict[str, Callable[[str], ProtobufMessage]] = {
    "ListSessions": lambda path: ListSessionsRequest(filter=SessionFilter(metadata=path)),
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
    """A reader bound to Ada, whose sessions are a few of many."""
    database.execute(FILL.encode())
    options = " ".join(f"-c {name}={value}" for name, value in PLANS[request.param].items())
    key = keys_file.add(Role.READER, "ada")
    server = start_server(
        credentials=keys_file.path, database_url=make_conninfo(database_url, options=options)
    )
    with caller(server.address, key) as client:
        yield client


def test_a_path_that_fails_on_rows_of_others_tells_a_bound_caller_nothing(
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


def size(responses: list[Any]) -> int:
    """Counts the sessions or results of responses."""
    return sum(
        len(response.results if hasattr(response, "results") else response.sessions)
        for response in responses
    )
