"""The rights that the service needs in a shared PostgreSQL."""

from collections.abc import Iterator
from typing import Any

import grpc
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from palaver.v1.admin_service_pb2 import PurgeDeletedRequest
from palaver_server.database.migrate import migrate
from palaver_server.errors import DatabaseUnusable
from tests.conftest import Run, StartServer
from tests.support.client import Client, refused, wait_until
from tests.support.endpoint import Endpoint
from tests.support.grants import documented_grants
from tests.support.watching import NOT_SERVING, SERVING, watched_health


class Administrator:
    """A superuser of a database, and two users without rights."""

    def __init__(self, database_url: str) -> None:
        self.owners_url = database_url
        self.database = str(conninfo_to_dict(database_url)["dbname"])
        self.user = f"user_of_{self.database}"
        self.owner = f"owner_of_{self.database}"
        self.migrators_url = make_conninfo(database_url, user=self.owner, password="Sesame")
        self.users_url = make_conninfo(database_url, user=self.user, password="Sesame")
        self._connection = psycopg.connect(database_url, autocommit=True)
        self.does("REVOKE ALL ON DATABASE {database} FROM PUBLIC")
        self.does("REVOKE ALL ON SCHEMA public FROM PUBLIC")
        for role in ("{user}", "{owner}"):
            self.does(f"CREATE ROLE {role} LOGIN PASSWORD 'Sesame'")
        self.does("GRANT CONNECT ON DATABASE {database} TO {user}")

    def does(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement, and return its rows if there are any."""
        names = {
            "database": sql.Identifier(self.database),
            "owner": sql.Identifier(self.owner),
            "user": sql.Identifier(self.user),
        }
        cursor = self._connection.execute(sql.SQL(statement).format(**names))
        return cursor.fetchall() if cursor.description else []

    def leaves(self) -> None:
        """Drop the users."""
        for role in ("{owner}", "{user}"):
            self.does(f"DROP OWNED BY {role} CASCADE")
            self.does(f"DROP ROLE {role}")
        self._connection.close()


@pytest.fixture
def administrator(empty_database_url: str) -> Iterator[Administrator]:
    administrator = Administrator(empty_database_url)
    yield administrator
    administrator.leaves()


def live_a_session(client: Client) -> None:
    """Make the calls that need the most rights: write and purge."""
    client.add("s", "one", "two")
    client.delete_session("s")
    *_, last = client.admin.PurgeDeleted(PurgeDeletedRequest())
    assert (last.messages.done, last.sessions.done) == (2, 1)


@pytest.mark.parametrize("place", ["URL", "role"])
def test_database_user_owning_one_schema_suffices(
    place: str, administrator: Administrator, start_server: StartServer
) -> None:
    administrator.does("CREATE SCHEMA chats AUTHORIZATION {user}")
    url = administrator.users_url
    if place == "URL":
        url = make_conninfo(url, options="-csearch_path=chats")
    else:
        administrator.does("ALTER ROLE {user} SET search_path = chats")

    live_a_session(start_server(database_url=url))

    owned = administrator.does(
        "SELECT DISTINCT schemaname FROM pg_tables WHERE tableowner LIKE 'user_of_%'"
    )
    assert owned == [("chats",)]
    assert administrator.does("SELECT extname FROM pg_extension") == [("plpgsql",)]


def test_database_user_without_ddl_rights_suffices_when_migrated(
    administrator: Administrator, run: Run, empty_database_url: str, start_server: StartServer
) -> None:
    run(migrate(empty_database_url))
    administrator.does("GRANT USAGE ON SCHEMA public TO {user}")
    administrator.does(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {user}"
    )

    live_a_session(start_server(database_url=administrator.users_url))


def test_schemas_of_one_database_are_separate(
    administrator: Administrator, empty_database_url: str, start_server: StartServer
) -> None:
    others = start_server(database_url=empty_database_url)
    others.add("s", "in public")
    administrator.does("GRANT USAGE ON SCHEMA public TO {user}")
    administrator.does("GRANT ALL ON ALL TABLES IN SCHEMA public TO {user}")
    administrator.does("CREATE SCHEMA chats AUTHORIZATION {user}")

    # Like the default search path, this one includes `public`.
    url = make_conninfo(administrator.users_url, options="-csearch_path=chats,public")
    live_a_session(start_server(database_url=url))

    assert others.get_session("s").last_sequence == 1


LOSSES = {
    "table": (
        "REVOKE INSERT, UPDATE ON messages FROM {user}",
        "GRANT INSERT, UPDATE ON messages TO ",
    ),
    "schema": (
        "REVOKE USAGE ON SCHEMA public FROM {user}",
        "GRANT USAGE ON SCHEMA public TO ",
    ),
}


@pytest.mark.parametrize("lost", LOSSES)
def test_database_right_that_is_revoked_is_named_and_its_return_is_noticed(  # noqa: PLR0917
    lost: str,
    administrator: Administrator,
    run: Run,
    empty_database_url: str,
    start_server: StartServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run(migrate(empty_database_url))
    administrator.does("GRANT USAGE ON SCHEMA public TO {user}")
    administrator.does("GRANT ALL ON ALL TABLES IN SCHEMA public TO {user}")
    client = start_server(database_url=administrator.users_url, health_interval_seconds=0.05)
    client.add("s", "before")
    revoke, grant = LOSSES[lost]
    grant += administrator.user

    with watched_health(client) as health:
        administrator.does(revoke)
        health.turns(NOT_SERVING)
        # Without its schema a table is not found, which is an error of its own.
        code = grpc.StatusCode.UNAVAILABLE if lost == "table" else grpc.StatusCode.INTERNAL
        with refused(code):
            client.add("s", "meanwhile")
        assert grant in caplog.text
        assert caplog.text.count(grant) == 1, "not at each check"
        administrator.does(grant)
        health.turns(SERVING)

    assert client.add("s", "after").messages[0].sequence == 2


def test_database_users_with_the_documented_rights_suffice(
    administrator: Administrator, start_server: StartServer, endpoint: Endpoint
) -> None:
    """One user migrates and creates the table of vectors; the other serves."""
    users = {"owner": "{owner}", "server": "{user}"}
    for statement in documented_grants(database="{database}", **users):
        administrator.does(statement)

    client = start_server(
        **endpoint.settings,
        database_url=administrator.users_url,
        migration_database_url=administrator.migrators_url,
    )
    live_a_session(client)
    client.add("vectors", "one", "two")

    wait_until(lambda: administrator.does("SELECT count(*) FROM palaver.embeddings") == [(2,)])
    owners = administrator.does(
        "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'palaver'"
    )
    assert owners == [(administrator.owner,)]


def test_database_user_without_right_to_migrate_is_told_the_grant(
    administrator: Administrator, run: Run
) -> None:
    with pytest.raises(DatabaseUnusable) as refusal:
        run(migrate(administrator.users_url))
    assert "palaver migrate" in str(refusal.value)

    administrator.does("GRANT USAGE ON SCHEMA public TO {user}")
    with pytest.raises(DatabaseUnusable) as refusal:
        run(migrate(administrator.users_url))
    assert f"GRANT USAGE, CREATE ON SCHEMA public TO {administrator.user}" in str(refusal.value)

    run(migrate(administrator.owners_url))
    with pytest.raises(DatabaseUnusable) as refusal:
        run(migrate(administrator.users_url))
    grant = f"GRANT SELECT, INSERT, UPDATE, DELETE ON schema_migrations TO {administrator.user}"
    assert grant in str(refusal.value)
