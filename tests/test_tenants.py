"""Tenants in schemas of one database, each with a role and a server of its own."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from palaver.v1.admin_service_pb2 import PurgeDeletedRequest, ReindexRequest
from palaver.v1.session_service_pb2 import ListAllSessionsRequest
from palaver_server.database.migrate import migrate
from tests.conftest import Run, StartServer
from tests.support.client import Client, wait_until
from tests.support.concurrency import Connection, at_once
from tests.support.scrapes import metrics_url, scraped
from tests.support.searching import found


@dataclass(frozen=True)
class Tenant:
    """A schema, and the URL of the role that owns it."""

    schema: str
    url: str


@pytest.fixture
def superuser(empty_database_url: str) -> Iterator[Connection]:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def tenants(empty_database_url: str, superuser: Connection) -> Iterator[list[Tenant]]:
    """Two tenants, as docs/databases.md sets them up; the database is their common one."""
    name = conninfo_to_dict(empty_database_url)["dbname"]
    tenants = []
    for schema in ("acme", "globex"):
        role = f"{schema}_of_{name}"
        names = {"role": sql.Identifier(role), "schema": sql.Identifier(schema)}
        for statement in (
            "CREATE ROLE {role} LOGIN PASSWORD 'Sesame'",
            "CREATE SCHEMA {schema} AUTHORIZATION {role}",
            "ALTER ROLE {role} SET search_path = {schema}",
        ):
            superuser.execute(sql.SQL(statement).format(**names))
        tenants.append(
            Tenant(schema, make_conninfo(empty_database_url, user=role, password="Sesame"))
        )
    yield tenants
    for tenant in tenants:
        role = str(conninfo_to_dict(tenant.url)["user"])
        for statement in ("DROP OWNED BY {role} CASCADE", "DROP ROLE {role}"):
            superuser.execute(sql.SQL(statement).format(role=sql.Identifier(role)))


@pytest.fixture
def servers(tenants: list[Tenant], start_server: StartServer) -> list[Client]:
    """A server of each tenant."""
    return [start_server(database_url=tenant.url) for tenant in tenants]


def test_tenants_see_only_their_own_data(servers: list[Client]) -> None:
    """Both use the same ids."""
    for number, server in enumerate(servers):
        server.add_user("ada", email=f"ada@{number}.example")
        server.add_session("s", user_id="ada")
        server.add("s", f"secret {number}")

    for number, server in enumerate(servers):
        (message,) = server.get_memory("s").messages
        assert (message.content, message.sequence) == (f"secret {number}", 1)
        assert server.get_user("ada").email == f"ada@{number}.example"
        assert found(server, "secret") == [f"secret {number}"]
        pages = server.sessions.ListAllSessions(ListAllSessionsRequest())
        assert [session.session_id for page in pages for session in page.sessions] == ["s"]


def test_tenants_purge_and_reindex_only_their_own_rows(
    servers: list[Client], superuser: Connection
) -> None:
    for server in servers:
        server.add("kept", "one")
        server.add("deleted", "one", "two")
        server.delete_session("deleted")
    acme, globex = servers

    *_, purged = acme.admin.PurgeDeleted(PurgeDeletedRequest())
    *_, reindexed = globex.admin.Reindex(ReindexRequest())

    assert (purged.messages.done, purged.sessions.done) == (2, 1)
    assert reindexed.words.done == 1
    assert superuser.execute("SELECT count(*) FROM acme.messages").fetchone() == (1,)
    assert superuser.execute("SELECT count(*) FROM globex.messages").fetchone() == (3,)


@contextmanager
def held_advisory_locks(database_url: str, schema: str) -> Iterator[None]:
    """Hold the advisory locks of a schema during the block, as its servers do at work."""
    with psycopg.connect(database_url) as connection:
        for work in ("migrate", "purge", "embeddings"):
            connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))",
                [f"palaver {work} {schema}"],
            )
        yield


def test_tenants_do_not_wait_for_the_locks_of_others(
    tenants: list[Tenant], servers: list[Client], start_server: StartServer, superuser: Connection
) -> None:
    acme, globex = tenants
    servers[1].add("s", "one")
    servers[1].delete_session("s")
    with held_advisory_locks(acme.url, acme.schema), psycopg.connect(acme.url) as busy:
        for table in ("purge_lease", "search_index", "schema_migrations", "messages"):
            busy.execute(f"LOCK TABLE {table}".encode())

        server = start_server(database_url=globex.url)
        *_, purged = server.admin.PurgeDeleted(PurgeDeletedRequest())
        list(server.admin.Reindex(ReindexRequest()))
        server.add("s", "two")

    assert purged.sessions.done == 1


def test_tenants_migrate_at_the_same_time(
    tenants: list[Tenant], run: Run, superuser: Connection
) -> None:
    def migration(tenant: Tenant) -> Callable[[], object]:
        return lambda: run(migrate(tenant.url))

    at_once([migration(tenant) for tenant in tenants]).all_succeeded()

    for tenant in tenants:
        tables = "SELECT count(*) FROM pg_tables WHERE schemaname = %s AND tableowner = %s"
        owner = conninfo_to_dict(tenant.url)["user"]
        (owned,) = superuser.execute(tables, [tenant.schema, owner]).fetchone() or (0,)
        assert owned >= 8
    assert superuser.execute("SELECT to_regclass('public.sessions')").fetchone() == (None,)


def test_tenants_metrics_count_only_their_own_rows(
    tenants: list[Tenant],
    servers: list[Client],
    start_server: StartServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    servers[0].add("s", "one", "two")
    servers[0].delete_session("s")
    caplog.set_level(logging.INFO)

    for tenant, overdue in zip(tenants, (2, 0), strict=True):
        start_server(
            database_url=tenant.url, metrics_listen="127.0.0.1:0", purge_retention_seconds=0
        )
        url = metrics_url(caplog.text)
        labels = {"work": "purge", "kind": "messages"}
        wait_until(lambda: bool(scraped(url).matching("palaver_backlog_rows", **labels)))  # noqa: B023
        assert scraped(url).value("palaver_backlog_rows", **labels) == overdue


def test_tenants_role_cannot_read_another_schema(tenants: list[Tenant], run: Run) -> None:
    acme, globex = tenants
    run(migrate(acme.url))

    with psycopg.connect(globex.url) as connection, pytest.raises(psycopg.errors.Error) as raised:
        connection.execute("SELECT FROM acme.messages")

    assert isinstance(raised.value, psycopg.errors.InsufficientPrivilege)
