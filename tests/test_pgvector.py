"""Databases with pgvector, without it, and without the right to create it."""

import logging
from collections.abc import Iterator

import grpc
import pytest
from google.rpc.error_details_pb2 import PreconditionFailure
from psycopg.conninfo import make_conninfo

from palaver.v1.memory_service_pb2 import SearchMemoryRequest
from palaver_server.database.migrate import migrate
from tests.conftest import Run, StartServer
from tests.support.client import Client, refused, wait_until
from tests.support.concurrency import Connection
from tests.support.endpoint import Endpoint
from tests.test_database_users import Administrator, live_a_session


@pytest.fixture
def administrator(empty_database_url: str) -> Iterator[Administrator]:
    """An administrator whose user owns the schema `chats` and has no other right."""
    administrator = Administrator(empty_database_url)
    administrator.does("CREATE SCHEMA chats AUTHORIZATION {user}")
    administrator.does("ALTER ROLE {user} SET search_path = chats")
    yield administrator
    administrator.leaves()


def assert_serves_without_vectors(client: Client, *words: str) -> None:
    """Check that everything but semantic search works, and that the log says what is missing."""
    live_a_session(client)
    with refused(grpc.StatusCode.FAILED_PRECONDITION) as refusal:
        client.memory.SearchMemory(
            SearchMemoryRequest(text="words", mode=SearchMemoryRequest.SEMANTIC)
        )
    (violation,) = refusal.detail(PreconditionFailure).violations
    for word in words:
        assert word in violation.description


def test_pgvector_without_right_to_create_it_serves_without_vectors(
    administrator: Administrator,
    start_server: StartServer,
    endpoint: Endpoint,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    url = administrator.users_url
    before = start_server(**endpoint.settings, database_url=url)
    assert_serves_without_vectors(before, "CREATE EXTENSION vector", "restart")
    assert "CREATE EXTENSION vector" in caplog.text
    before.add("before", "one", "two")
    assert administrator.does("SELECT count(*) FROM chats.embedding_queue") == [(0,)]

    administrator.does("CREATE EXTENSION vector SCHEMA public")
    administrator.does("GRANT USAGE ON SCHEMA public TO {user}")
    after = start_server(**endpoint.settings, database_url=url)
    after.add("after", "three")

    wait_until(lambda: administrator.does("SELECT count(*) FROM chats.embeddings") == [(3,)])
    assert before.add("before", "three").messages[0].sequence == 3


def test_pgvector_extension_is_shared_by_schemas(
    administrator: Administrator,
    start_server: StartServer,
    endpoint: Endpoint,
    empty_database_url: str,
) -> None:
    """The extension is on the search path of only one of them."""
    others = start_server(**endpoint.settings, database_url=empty_database_url)
    others.add("s", "one", "two")
    administrator.does("GRANT USAGE ON SCHEMA public TO {user}")

    palaver = start_server(**endpoint.settings, database_url=administrator.users_url)
    palaver.add("s", "three")

    wait_until(lambda: administrator.does("SELECT count(*) FROM chats.embeddings") == [(1,)])
    wait_until(lambda: administrator.does("SELECT count(*) FROM public.embeddings") == [(2,)])


def test_pgvector_table_that_cannot_be_created_is_explained(
    administrator: Administrator, run: Run, start_server: StartServer, endpoint: Endpoint
) -> None:
    owner = make_conninfo(administrator.owners_url, options="-csearch_path=chats")
    run(migrate(owner))
    administrator.does("CREATE EXTENSION vector SCHEMA public")
    administrator.does("ALTER SCHEMA chats OWNER TO CURRENT_USER")
    administrator.does("GRANT USAGE ON SCHEMA chats, public TO {user}")
    every = "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA chats TO {user}"
    administrator.does(every)

    before = start_server(**endpoint.settings, database_url=administrator.users_url)
    assert_serves_without_vectors(before, "palaver migrate", "restart")

    start_server(
        **endpoint.settings, database_url=owner
    )  # which runs the migrations like `palaver migrate`
    administrator.does(every)
    after = start_server(**endpoint.settings, database_url=administrator.users_url)
    after.add("s", "text")

    wait_until(lambda: administrator.does("SELECT count(*) FROM chats.embeddings") == [(1,)])


def test_pgvector_that_the_user_may_not_use_is_explained(
    administrator: Administrator, start_server: StartServer, endpoint: Endpoint
) -> None:
    administrator.does("CREATE EXTENSION vector SCHEMA public")
    grant = f"GRANT USAGE ON SCHEMA public TO {administrator.user}"

    before = start_server(**endpoint.settings, database_url=administrator.users_url)
    assert_serves_without_vectors(before, grant, "restart")

    administrator.does(grant)
    after = start_server(**endpoint.settings, database_url=administrator.users_url)
    after.add("vectors", "text")
    wait_until(lambda: administrator.does("SELECT count(*) FROM chats.embeddings") == [(1,)])

    administrator.does("ALTER TABLE chats.embeddings OWNER TO CURRENT_USER")
    denied = start_server(**endpoint.settings, database_url=administrator.users_url)
    grant = f"GRANT SELECT, INSERT, UPDATE, DELETE ON embeddings TO {administrator.user}"
    assert_serves_without_vectors(denied, grant)


def test_pgvector_that_is_not_installed_is_explained(
    database: Connection, database_url: str, start_server: StartServer, endpoint: Endpoint
) -> None:
    if database.info.server_version < 180000:
        pytest.skip("PostgreSQL 18 is the first that can be told to look elsewhere")
    name = database.info.dbname
    database.execute(f"ALTER DATABASE {name} SET extension_control_path = '/nowhere'")

    palaver = start_server(**endpoint.settings)

    assert_serves_without_vectors(palaver, "no pgvector", "github.com/pgvector")


def test_pgvector_is_not_created_without_embedder(
    database: Connection, start_server: StartServer
) -> None:
    live_a_session(start_server())

    assert database.execute("SELECT extname FROM pg_extension").fetchall() == [("plpgsql",)]
    assert database.execute("SELECT to_regclass('embeddings')").fetchone() == (None,)
