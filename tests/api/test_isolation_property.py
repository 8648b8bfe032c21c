"""A bound caller gets the answers of a database that holds only its user's live rows."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import count
from typing import Any, NamedTuple, cast

import grpc
import psycopg
import pytest
from google.protobuf.message import Message as ProtobufMessage
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo

from palaver.v1.memory_service_pb2 import (
    GetMemoryRequest,
    ListMessagesRequest,
    MessageFilter,
    SearchMemoryRequest,
    StreamMessagesRequest,
)
from palaver.v1.session_pb2 import SessionFilter
from palaver.v1.session_service_pb2 import (
    CountSessionsRequest,
    ListAllSessionsRequest,
    ListSessionsRequest,
)
from palaver.v1.user_pb2 import UserFilter
from palaver.v1.user_service_pb2 import ListAllUsersRequest, ListUsersRequest
from palaver_server.auth.roles import Role
from palaver_server.embedding.models import VectorSpace
from tests.conftest import StartServer
from tests.support.callers import KeysFile, caller
from tests.support.client import Client, wait_until
from tests.support.concurrency import Connection
from tests.support.endpoint import Endpoint
from tests.support.json_paths import paths, values
from tests.support.vectors import embed

pytestmark = pytest.mark.slow

# The number of databases, each with several requests. A given number draws new ones each time.
CASES = os.environ.get("PALAVER_ISOLATION_CASES")

several = settings(
    max_examples=int(CASES or 60),
    derandomize=CASES is None,
    # Shrinking a case takes minutes.
    phases=tuple(Phase) if CASES else (Phase.explicit, Phase.generate),
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)

# The plans that PostgreSQL chooses here, and those that it might choose for a larger database.
PLANS = {
    "preferred": "",
    "hash": "-c enable_nestloop=off -c enable_mergejoin=off",
    "merge": "-c enable_nestloop=off -c enable_hashjoin=off",
    "indexes": "-c enable_seqscan=off -c enable_hashjoin=off",
}

WORDS = ["tea", "coffee", "tea coffee", "milk", "a long talk about tea", "user"]


class Message(NamedTuple):
    """A message to insert."""

    role: str
    content: str
    metadata: dict[str, object]
    day: int
    is_deleted: bool
    has_vector: bool


class Session(NamedTuple):
    """A session to insert."""

    user_id: str | None
    metadata: dict[str, object]
    day: int
    is_deleted: bool
    messages: list[Message]


mostly_not = st.sampled_from([False, False, False, True])
metadatas = st.dictionaries(st.sampled_from(["a", "plan", "tags"]), values, max_size=2)
days = st.integers(1, 4)
messages = st.builds(
    Message,
    st.sampled_from(["user", "tool"]),
    st.sampled_from(WORDS),
    metadatas,
    days,
    mostly_not,
    st.booleans(),
)
sessions = st.builds(
    Session,
    st.sampled_from(["ada", "ada", "bob", None]),
    metadatas,
    days,
    mostly_not,
    st.lists(messages, max_size=4),
)

# How often each session of others is inserted: with many copies, they dominate the statistics.
copies = st.sampled_from([1, 1, 40])


def filters(kind: Any, **more: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def build(given: dict[str, Any]) -> Any:
        return kind(**given)

    optional = {"created_after": days.map(day), "created_before": days.map(day), **more}
    return st.fixed_dictionaries({"metadata": paths}, optional=optional).map(build)


def day(number: int) -> Timestamp:
    moment = Timestamp()
    moment.FromDatetime(datetime(2026, 1, number, tzinfo=UTC))
    return moment


prefixes = st.sampled_from(["s", "s1", "t"])
session_filters = filters(
    SessionFilter,
    user_id=st.sampled_from(["ada", "bob"]),
    session_id_prefix=prefixes,
    updated_after=days.map(day),
    updated_before=days.map(day),
)
user_filters = st.builds(
    UserFilter,
    user_id_prefix=st.sampled_from(["", "a", "b"]),
    user_ids=st.sampled_from([[], ["ada"], ["bob", "ada"]]),
    email=st.sampled_from(["", "e"]),
    metadata=paths,
)
searches: st.SearchStrategy[Any] = st.fixed_dictionaries(
    {
        "text": st.sampled_from(["", "tea", "coffee milk", '"tea"', "talk -milk", "user"]),
        "mode": st.sampled_from([0, 0, 1, 2, 3]),
        "limit": st.sampled_from([0, 1, 3]),
    },
    optional={
        "filter": filters(MessageFilter, roles=st.just(["user"])),
        "min_score": st.sampled_from([0.1, 0.5]),
        "diversity": st.sampled_from([0.3, 1.0]),
        "user_id": st.sampled_from(["ada", "bob"]),
    },
)
requests: st.SearchStrategy[ProtobufMessage] = st.one_of(
    st.builds(
        ListSessionsRequest,
        filter=session_filters,
        limit=st.sampled_from([1, 2, 100]),
        newest_first=st.booleans(),
    ),
    st.builds(
        ListAllSessionsRequest, filter=session_filters, chunk_size=st.sampled_from([1, 2, 100])
    ),
    searches.map(lambda fields: SearchMemoryRequest(**fields)),
    st.builds(
        lambda fields, session_id: SearchMemoryRequest(**{**fields, "session_id": session_id}),
        searches.map(lambda fields: {k: v for k, v in fields.items() if k != "user_id"}),
        st.sampled_from(["s1", "s2", "s3"]),
    ),
    st.builds(
        lambda fields, prefix: SearchMemoryRequest(**{**fields, "session_id_prefix": prefix}),
        searches.map(lambda fields: {k: v for k, v in fields.items() if k != "user_id"}),
        prefixes,
    ),
    st.builds(CountSessionsRequest, filter=session_filters, limit=st.sampled_from([0, 1, 2])),
    st.builds(ListUsersRequest, filter=user_filters),
    st.builds(ListAllUsersRequest, filter=user_filters),
)

own_sessions = st.sampled_from(["s1", "s2", "s3"])
message_filters = filters(MessageFilter, roles=st.just(["user"]))
message_reads: st.SearchStrategy[ProtobufMessage] = st.one_of(
    st.builds(
        GetMemoryRequest,
        session_id=own_sessions,
        filter=message_filters,
        last_n=st.sampled_from([1, 2, 100]),
        pinned_roles=st.sampled_from([[], ["tool"], ["tool", "user"]]),
        no_messages=st.booleans(),
        total_count=st.booleans(),
    ),
    st.builds(
        ListMessagesRequest,
        session_id=own_sessions,
        filter=message_filters,
        limit=st.sampled_from([1, 2, 100]),
        newest_first=st.booleans(),
    ),
    st.builds(
        StreamMessagesRequest,
        session_id=own_sessions,
        filter=message_filters,
        chunk_size=st.sampled_from([1, 2, 100]),
    ),
)

CLEAR = "TRUNCATE sessions, messages, users CASCADE"

FILL = """
    INSERT INTO sessions (
        session_id, id, user_id, metadata, last_sequence, created_at, updated_at, deleted_at
    )
    SELECT session_id, id, user_id, metadata, last_sequence, created_at, updated_at, deleted_at
    FROM jsonb_populate_recordset(NULL::sessions, %(sessions)s::jsonb);

    INSERT INTO messages (
        session_id, sequence, message_id, role, content, words, metadata, created_at, updated_at,
        deleted_at
    )
    SELECT session_id, sequence, message_id, role, content, search_words(content, 'english'),
        metadata, created_at, updated_at, deleted_at
    FROM jsonb_populate_recordset(NULL::messages, %(messages)s::jsonb);

    INSERT INTO users (user_id, id, email, metadata, created_at, updated_at)
    SELECT user_id, min(id), 'e', (array_agg(metadata ORDER BY id))[1], min(created_at),
        min(created_at)
    FROM sessions WHERE user_id IS NOT NULL AND deleted_at IS NULL GROUP BY user_id;
"""

EMBED = """
    INSERT INTO embeddings (session_id, sequence, model, text_hash, embedding)
    SELECT session_id, sequence, {model}, {text_hash}, (%(vectors)s::jsonb ->> ({text}))::{halfvec}
    FROM jsonb_to_recordset(%(embedded)s::jsonb) AS e (session_id text, sequence bigint)
        JOIN messages m USING (session_id, sequence)
"""

VECTORS = {f"{role}: {content}": embed(f"{role}: {content}")
    for role in ("user", "tool") for content in WORDS}  # fmt: skip


class Database:
    """A database that is refilled for each case, and a client of each server on it."""

    def __init__(self, connection: Connection, clients: dict[str, Client]) -> None:
        self._connection = connection
        self.clients = clients
        wait_until(lambda: self._space is not None)
        self._embed = EMBED.format(**VectorSpace(*(self._space or (0, 0, "")), 0, 0).names)

    @property
    def _space(self) -> tuple[int, int, str] | None:
        """The model, its dimensions and the vectors' schema; None during the backfill."""
        query = """
            SELECT id, dimensions, extnamespace::regnamespace::text
            FROM embedding_models, pg_extension
            WHERE walk_session_id IS NULL AND extname = 'vector'
        """
        return cast("tuple[int, int, str] | None", self._connection.execute(query).fetchone())

    def fill(self, sessions: Iterable[tuple[int, Session]], *, with_deleted: bool = True) -> None:
        """Replace the contents of the database by these sessions, under their numbers."""
        rows: dict[str, list[dict[str, Any]]] = {"sessions": [], "messages": [], "embedded": []}
        for number, session in sessions:
            if session.is_deleted and not with_deleted:
                continue
            key = {"session_id": f"s{number}"}
            rows["sessions"].append(
                {
                    **key,
                    "id": number,
                    "user_id": session.user_id,
                    "metadata": session.metadata,
                    "last_sequence": len(session.messages),
                    **dates(session.day, is_deleted=session.is_deleted),
                }
            )
            for sequence, message in enumerate(session.messages, 1):
                is_deleted = session.is_deleted or message.is_deleted
                if is_deleted and not with_deleted:
                    continue
                rows["messages"].append(
                    {
                        **key,
                        "sequence": sequence,
                        "message_id": f"m{sequence}",
                        "role": message.role,
                        "content": message.content,
                        "metadata": message.metadata,
                        **dates(message.day, is_deleted=is_deleted),
                    }
                )
                if message.has_vector:
                    rows["embedded"].append({**key, "sequence": sequence})
        parameters = {name: json.dumps(value) for name, value in rows.items()}
        parameters["vectors"] = json.dumps(VECTORS)
        with self._connection.transaction(), psycopg.ClientCursor(self._connection) as cursor:
            cursor.execute(CLEAR)
            cursor.execute(FILL.encode(), parameters)
            cursor.execute(self._embed.encode(), parameters)
        self._connection.execute("ANALYZE sessions, messages, users, embeddings")


def dates(day: int, *, is_deleted: bool) -> dict[str, str | None]:
    return {
        "created_at": f"2026-01-0{day}T00:00:00Z",
        "updated_at": f"2026-01-0{day}T00:00:00Z",
        "deleted_at": "2026-01-05T00:00:00Z" if is_deleted else None,
    }


@pytest.fixture
def start(
    start_server: StartServer, keys_file: KeysFile, endpoint: Endpoint
) -> Iterator[Callable[[str, Iterable[str]], Database]]:
    """A function that starts a server for each of these plans, and a client bound to Ada."""
    key = keys_file.add(Role.READER, "ada")

    with ExitStack() as stack:

        def start(url: str, plans: Iterable[str]) -> Database:
            clients = {}
            for plan in plans:
                server = start_server(
                    **endpoint.settings,
                    credentials=keys_file.path,
                    database_url=make_conninfo(url, options=PLANS[plan]),
                    pool_max_size=4,
                )
                clients[plan] = stack.enter_context(caller(server.address, key))
            connection = stack.enter_context(psycopg.connect(url, autocommit=True))
            return Database(connection, clients)

        yield start


@pytest.fixture
def shared(start: Callable[[str, Iterable[str]], Database], database_url: str) -> Database:
    """A database in which Ada's rows are among those of others, and deleted ones."""
    return start(database_url, PLANS)


@pytest.fixture
def alone(start: Callable[[str, Iterable[str]], Database], empty_database_url: str) -> Database:
    """A database that holds only Ada's live rows."""
    return start(empty_database_url, ["preferred"])


def answer(client: Client, request: ProtobufMessage) -> list[str]:
    """Return everything that a caller sees of the answer to a request."""
    try:
        return [str(response) for response in client.send(request)]
    except grpc.RpcError as error:
        call = cast("grpc.Call", error)
        trailing = [item for item in call.trailing_metadata() or () if item[0] != "x-request-id"]
        return [str(call.code()), str(call.details()), *map(str, trailing)]


@pytest.mark.vectors
@pytest.mark.timeout(0 if CASES else 120)
@several
@given(
    rows=st.lists(sessions, min_size=2, max_size=8),
    copies=copies,
    plan=st.sampled_from(list(PLANS)),
    requests=st.lists(requests | message_reads, min_size=8, max_size=8),
)
def test_isolation_random_databases_give_the_answers_of_the_callers_own_rows(
    shared: Database, alone: Database, **drawn: Any
) -> None:
    rows: list[Session] = drawn["rows"]
    mine = [(number, row) for number, row in enumerate(rows, 1) if row.user_id == "ada"]
    others = [row for row in rows if row.user_id != "ada"] * drawn["copies"]
    taken = {number for number, _ in mine}
    free = (number for number in count(1) if number not in taken)
    shared.fill([*mine, *zip(free, others, strict=False)])
    alone.fill(mine, with_deleted=False)

    client, reference = shared.clients[drawn["plan"]], alone.clients["preferred"]
    for request in drawn["requests"]:
        assert answer(client, request) == answer(reference, request)
