"""The rights that the service needs in a shared PostgreSQL."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from palaver.v1.admin_service_pb2 import PurgeDeletedRequest
from palaver_server.database.migrate import migrate
from tests.conftest import Run, StartServer
from tests.support.client import Client


class Administrator:
    """A superuser of a database, and a user without rights."""

    def __init__(self, database_url: str) -> None:
        self.owners_url = database_url
        self.database = str(conninfo_to_dict(database_url)["dbname"])
        self.user = f"user_of_{self.database}"
        self.users_url = make_conninfo(database_url, user=self.user, password="Sesame")
        self._connection = psycopg.connect(database_url, autocommit=True)
        self.does("REVOKE ALL ON DATABASE {database} FROM PUBLIC")
        self.does("REVOKE ALL ON SCHEMA public FROM PUBLIC")
        self.does("CREATE ROLE {user} LOGIN PASSWORD 'Sesame'")
        self.does("GRANT CONNECT ON DATABASE {database} TO {user}")

    def does(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement, and return its rows if there are any."""
        names = {"database": sql.Identifier(self.database), "user": sql.Identifier(self.user)}
        cursor = self._connection.execute(sql.SQL(statement).format(**names))
        return cursor.fetchall() if cursor.description else []

    def leaves(self) -> None:
        """Drop the user."""
        self.does("DROP OWNED BY {user} CASCADE")
        self.does("DROP ROLE {user}")
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
