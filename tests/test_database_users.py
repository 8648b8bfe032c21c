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


# Rights that are revoked, and the statements that give them back.
LOSSES = {
    "INSERT, UPDATE ON messages": "GRANT INSERT, UPDATE ON messages TO ",
    "SELECT ON sessions": "GRANT SELECT ON sessions TO ",
    "UPDATE ON purge_lease": "GRANT UPDATE ON purge_lease TO ",
    "UPDATE ON search_index": "GRANT UPDATE ON search_index TO ",
    "DELETE ON embedding_queue": "GRANT DELETE ON embedding_queue TO ",
    "SELECT ON embedding_models": "GRANT SELECT ON embedding_models TO ",
    "USAGE ON SCHEMA public": "GRANT USAGE ON SCHEMA public TO ",
    "EXECUTE ON FUNCTION search_unspaced": "GRANT EXECUTE ON FUNCTION search_unspaced() TO ",
}

# Without these, an AddMemory fails.
NEEDED_BY_ADD = ("INSERT, UPDATE ON messages", "USAGE ON SCHEMA public")


def test_database_right_that_is_revoked_is_named_and_its_return_is_noticed(
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

    with watched_health(client) as health:
        for lost, to in LOSSES.items():
            grant = to + administrator.user
            administrator.does(f"REVOKE {lost} FROM {{user}}, PUBLIC")
            health.turns(NOT_SERVING)
            if lost in NEEDED_BY_ADD:
                with refused(grpc.StatusCode.UNAVAILABLE):
                    client.add("s", "meanwhile")
            assert caplog.text.count(grant) == 1, "not at each check"
            administrator.does(grant)
            health.turns(SERVING)

    assert client.add("s", "after").messages[0].sequence == 2


def test_database_right_on_vectors_that_is_revoked_is_named_and_its_return_is_noticed(
    administrator: Administrator,
    start_server: StartServer,
    endpoint: Endpoint,
    caplog: pytest.LogCaptureFixture,
) -> None:
    users = {"owner": "{owner}", "server": "{user}"}
    for statement in documented_grants(database="{database}", **users):
        administrator.does(statement)
    client = start_server(
        **endpoint.settings,
        database_url=administrator.users_url,
        migration_database_url=administrator.migrators_url,
        health_interval_seconds=0.05,
    )

    with watched_health(client) as health:
        # pgvector is in the schema public, and Palaver's tables in another one.
        for right in ("SELECT ON palaver.embeddings", "USAGE ON SCHEMA public"):
            grant = f"GRANT {right} TO {administrator.user}".replace("palaver.", "")
            administrator.does(f"REVOKE {right} FROM {{user}}, PUBLIC")
            health.turns(NOT_SERVING)
            assert grant in caplog.text
            administrator.does(f"GRANT {right} TO {{user}}")
            health.turns(SERVING)


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
