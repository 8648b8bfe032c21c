"""Read-only servers: reads on a hot standby, and refused writes."""

from collections.abc import Iterator
from typing import Any

import grpc
import psycopg
import pytest
from google.rpc.error_details_pb2 import PreconditionFailure
from psycopg.conninfo import make_conninfo

from palaver.v1.memory_service_pb2 import SearchMemoryRequest
from palaver_server.auth.roles import POLICY, Role
from palaver_server.bootstrap.migration import prepare_schema
from palaver_server.config import Settings
from palaver_server.database.migrate import migrate
from palaver_server.errors import DatabaseUnusable
from tests.conftest import Run, StartServer
from tests.support.client import Client, refused
from tests.support.endpoint import Endpoint
from tests.support.processes import scratch_directory
from tests.support.reads import READS, fill
from tests.support.rows import count_rows
from tests.support.searching import found
from tests.support.standby import Pair, replicated
from tests.support.watching import NOT_SERVING, SERVING, eventually, health_of

SEMANTIC = SearchMemoryRequest.SEMANTIC


@pytest.fixture(scope="module")
def pair(run: Run) -> Iterator[Pair]:
    """A migrated primary and its standby."""
    with scratch_directory() as directory, replicated(directory) as pair:
        run(migrate(pair.primary))
        yield pair


@pytest.fixture
def reader(start_server: StartServer, pair: Pair) -> Client:
    """A client of a read-only server on the standby."""
    return start_server(database_url=pair.standby, read_only=True, purge_interval_seconds=3600)


def test_reads_on_standby_return_what_it_has_replayed(
    start_server: StartServer,
    reader: Client,
    pair: Pair,
    session_id: str,
    subtests: pytest.Subtests,
) -> None:
    fill(start_server(database_url=pair.primary), session_id)
    pair.catch_up()

    assert health_of(reader) == SERVING
    for name, read in READS.items():
        with subtests.test(name):
            assert read(reader, session_id)


def test_writes_are_refused(reader: Client, subtests: pytest.Subtests) -> None:
    writing = [name for name, role in POLICY.items() if role is not Role.READER]
    for name in writing:
        with subtests.test(name), refused(grpc.StatusCode.FAILED_PRECONDITION) as refusal:
            call: Any = reader.channel.unary_stream(name)
            list(call(b""))
        assert [violation.type for violation in refusal.detail(PreconditionFailure).violations] == [
            "READ_ONLY"
        ]


def test_server_on_writable_database_changes_nothing(
    start_server: StartServer,
    empty_database_url: str,
    run: Run,
    endpoint: Endpoint,
) -> None:
    run(migrate(empty_database_url))
    before = _contents(empty_database_url)

    start_server(
        database_url=empty_database_url,
        read_only=True,
        purge_interval_seconds=0.01,
        search_language="german",
        **endpoint.settings,
    )

    assert _contents(empty_database_url) == before


def _contents(database_url: str) -> list[tuple[str, str]]:
    """Return the names of all tables, and their rows."""
    with psycopg.connect(database_url) as connection:
        tables = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
            " AND relkind = 'r' ORDER BY relname"
        ).fetchall()
        return [
            (name, str(connection.execute(f"SELECT * FROM {name}".encode()).fetchall()))
            for (name,) in tables
        ]


def test_start_on_database_without_migrations_is_refused(run: Run, empty_database_url: str) -> None:
    given: dict[str, Any] = {"database_url": empty_database_url, "read_only": True}
    settings = Settings(**given)

    with pytest.raises(DatabaseUnusable, match="lacks migrations"):
        run(prepare_schema(settings, empty_database_url))


def test_semantic_search_uses_vectors_that_are_there(
    start_server: StartServer, pair: Pair, endpoint: Endpoint, session_id: str
) -> None:
    read_only = {"database_url": pair.standby, "read_only": True, **endpoint.settings}
    without_vectors = start_server(**read_only)
    with refused(grpc.StatusCode.FAILED_PRECONDITION) as refusal:
        found(without_vectors, "hello", mode=SEMANTIC)
    assert "start a server that writes" in str(refusal.detail(PreconditionFailure))

    writer = start_server(database_url=pair.primary, **endpoint.settings)
    writer.add(session_id, "hello")
    embedded = f"embeddings WHERE session_id = '{session_id}'"
    with psycopg.connect(pair.primary, autocommit=True) as database:
        eventually(lambda: count_rows(database, embedded), "it is embedded")
    pair.catch_up()

    by = {"session_id": session_id, "mode": SEMANTIC}
    assert found(start_server(**read_only), "hello", **by) == ["hello"]


def test_user_with_select_alone_is_enough(
    start_server: StartServer, database_url: str, palaver: Client, session_id: str
) -> None:
    fill(palaver, session_id)
    role = f"reader_{session_id.replace('-', '_')}"
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute(f"CREATE ROLE {role} LOGIN".encode())
        owner.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}".encode())
        try:
            client = start_server(
                database_url=make_conninfo(database_url, user=role), read_only=True
            )
            assert health_of(client) == SERVING
            assert found(client, session_id) == [session_id]
        finally:
            owner.execute(f"DROP OWNED BY {role}".encode())


def test_database_that_becomes_read_only_by_itself_is_not_serving(
    start_server: StartServer, database_url: str
) -> None:
    client = start_server(health_interval_seconds=0.1)
    with psycopg.connect(database_url, autocommit=True) as admin:
        name = admin.info.dbname
        admin.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'.encode())
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

    eventually(lambda: health_of(client) == NOT_SERVING, "it is noticed")
    with refused(grpc.StatusCode.UNAVAILABLE):
        client.add("s", "hello")
