"""Databases for tests. One is emptied and lent again, which is cheaper than creating another."""

import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

Connection = psycopg.Connection[tuple[Any, ...]]

# Tests may create functions here, and triggers that call them: they last until the next reset.
TEST_SCHEMA = "tests"

_DROP_TEST_SCHEMA: LiteralString = f"DROP SCHEMA IF EXISTS {TEST_SCHEMA} CASCADE"

_CATALOGS = """
    SELECT relname FROM pg_class
    WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r' AND NOT relisshared
        AND relname <> 'pg_class'
"""

_TABLES = """
    SELECT relname, pg_relation_size(oid) > 0 FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
"""

# An insert or update gives a row a newer xmin, and a delete lowers the count.
_CATALOG_STATE: LiteralString = (
    "SELECT {label}, concat(count(*), ' ', max(xmin::text::bigint)) FROM {name}"
)
_TABLE_STATE: LiteralString = (
    "SELECT {label}, string_agg(r::text, ' ' ORDER BY r::text) FROM {name} r"
)
# Without what TRUNCATE, VACUUM or a trigger that is dropped again leave behind.
_RELATIONS_STATE = """
    SELECT 'pg_class', string_agg((to_jsonb(c) - '{
        relfilenode, relpages, reltuples, relallvisible, relallfrozen, relfrozenxid, relminmxid,
        relhastriggers}'::text[])::text, ' ' ORDER BY oid)
    FROM pg_class c WHERE relnamespace <> 'pg_catalog'::regnamespace
"""
_DATABASE_STATE = """
    SELECT 'pg_database', concat(datacl, datdba, datallowconn, datconnlimit,
        (SELECT array_agg(s) FROM pg_db_role_setting s WHERE setdatabase = d.oid))
    FROM pg_database d WHERE datname = current_database()
"""

# Waits until they have ended: a connection that is being closed may still hold locks.
_END_CONNECTIONS = """
    SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name <> %s
"""

_CONNECTIONS = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = %s
"""

_RESTART_SEQUENCES = "SELECT setval(seqrelid, seqstart, false) FROM pg_sequence"


@contextmanager
def new_database(postgres: str, template: str = "template1") -> Iterator[str]:
    """Create a database on a server, yield its URL, and drop it after the block."""
    name = f"palaver_{uuid.uuid4().hex[:12]}"
    names = {"name": sql.Identifier(name), "template": sql.Identifier(template)}
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {name} TEMPLATE {template}").format(**names))
        try:
            yield make_conninfo(postgres, dbname=name)
        finally:
            connection.execute(sql.SQL("DROP DATABASE {name} WITH (FORCE)").format(**names))


class Database:
    """A database that can be reset to the state of its template.

    Args:
        postgres: The URL of the server.
        template: The name of the template.
        kept: The `application_name` of connections that a reset does not end.
    """

    def __init__(self, postgres: str, template: str, *, kept: str = "nobody's") -> None:
        self._kept = kept
        with ExitStack() as stack:
            self.url = stack.enter_context(new_database(postgres, template))
            self._connection: Connection = stack.enter_context(
                psycopg.connect(self.url, autocommit=True)
            )
            catalogs = [name for (name,) in self._connection.execute(_CATALOGS)]
            tables: dict[str, bool] = dict(self._connection.execute(_TABLES).fetchall())
            self._empty = {name for name, is_filled in tables.items() if not is_filled}
            states = [_about(_CATALOG_STATE, name) for name in catalogs]
            states += [_about(_TABLE_STATE, name) for name in tables.keys() - self._empty]
            self._state_query = sql.SQL(" UNION ALL ").join(
                [sql.SQL(_DATABASE_STATE), sql.SQL(_RELATIONS_STATE), *states]
            )
            self._state = self._read_state()
            self.drop = stack.pop_all().close

    def reset(self) -> bool:
        """Remove the rows that a test left; tell whether it left no other change."""
        try:
            self._connection.execute(_END_CONNECTIONS, [self._kept])
            self._connection.execute(_DROP_TEST_SCHEMA)
            if self._read_state() != self._state:
                return False
            filled = {name for name, is_filled in self._connection.execute(_TABLES) if is_filled}
            if filled := filled & self._empty:
                tables = sql.SQL(", ").join(map(sql.Identifier, filled))
                self._connection.execute(sql.SQL("TRUNCATE {} CASCADE").format(tables))
            self._connection.execute(_RESTART_SEQUENCES)
        except psycopg.OperationalError:  # the test ended all connections
            return False
        return True

    def kept_connections(self) -> set[int]:
        """Return the process ids of the connections that a reset does not end."""
        return {pid for (pid,) in self._connection.execute(_CONNECTIONS, [self._kept])}

    def _read_state(self) -> dict[str, str]:
        return dict(self._connection.execute(self._state_query, prepare=True).fetchall())


def _about(query: LiteralString, name: str) -> sql.Composed:
    """Complete the query for the state of a table."""
    return sql.SQL(query).format(label=sql.Literal(name), name=sql.Identifier(name))


class Databases:
    """Lends migrated databases, each to one test at a time.

    A database in which a test changed more than rows, such as a table, a setting or statistics,
    is dropped.
    """

    def __init__(self, postgres: str, template: str) -> None:
        self._postgres = postgres
        self._template = template
        self._free: list[Database] = []

    @contextmanager
    def lent(self) -> Iterator[str]:
        """Yield the URL of a database that nobody else uses during the block."""
        database = self._free.pop() if self._free else Database(self._postgres, self._template)
        try:
            yield database.url
        finally:
            if database.reset():
                self._free.append(database)
            else:
                database.drop()

    def close(self) -> None:
        """Drop the databases."""
        for database in self._free:
            database.drop()
