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

_SMALL_TABLE_BYTES = 128 * 1024

_DROP_TEST_SCHEMA: LiteralString = f"DROP SCHEMA IF EXISTS {TEST_SCHEMA} CASCADE"

# Where the objects that migrations and tests create are described, and the columns with their ids.
_CATALOGS = {
    "pg_attrdef": "oid",
    "pg_attribute": "attrelid",
    "pg_constraint": "oid",
    "pg_extension": "oid",
    "pg_index": "indexrelid",
    "pg_policy": "oid",
    "pg_proc": "oid",
    "pg_statistic": "starelid",
    "pg_trigger": "oid",
    "pg_ts_config": "oid",
    "pg_type": "oid",
}

# PostgreSQL's own objects have lower ids.
_FIRST_ID = 16384

# An insert or update gives a row a newer xmin, and a delete lowers the count.
_CATALOG_STATE = """
    SELECT '{catalog}', concat(count(*), ' ', max(xmin::text::bigint))
    FROM {catalog} WHERE {key} >= {first_id}
"""

# Without what TRUNCATE, VACUUM or a trigger that is dropped again leave behind.
_RELATIONS_STATE = f"""
    SELECT 'pg_class', string_agg((to_jsonb(c) - '{{
        relfilenode, relpages, reltuples, relallvisible, relallfrozen, relfrozenxid, relminmxid,
        relhastriggers}}'::text[])::text, ' ' ORDER BY oid)
    FROM pg_class c WHERE oid >= {_FIRST_ID}
"""

_SCHEMAS_STATE = "SELECT 'pg_namespace', string_agg(n::text, ' ' ORDER BY oid) FROM pg_namespace n"

_TABLES = """
    SELECT relname, pg_relation_size(oid) FROM pg_class
    WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'
"""

_TABLE_STATE = "SELECT '{table}', string_agg(r::text, ' ' ORDER BY r::text) FROM {table} r"

_DATABASE_STATE = """
    SELECT 'pg_database', concat(datacl, datdba, datallowconn, datconnlimit,
        (SELECT array_agg(s) FROM pg_db_role_setting s WHERE setdatabase = d.oid))
    FROM pg_database d WHERE datname = current_database()
"""

# Waits until they have ended: a connection that is being closed may still hold locks.
_END_CONNECTIONS = """
    SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND application_name IS DISTINCT FROM %s
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
        kept: The `application_name` of connections that a reset does not end, if any.
    """

    def __init__(self, postgres: str, template: str, *, kept: str | None = None) -> None:
        self._kept = kept
        with ExitStack() as stack:
            self.url = stack.enter_context(new_database(postgres, template))
            self._connection: Connection = stack.enter_context(
                psycopg.connect(self.url, autocommit=True)
            )
            tables = self._read_sizes()
            self._empty = {table for table, size in tables.items() if not size}
            self._state_query = " UNION ALL ".join(
                [
                    _DATABASE_STATE,
                    _SCHEMAS_STATE,
                    _RELATIONS_STATE,
                    *(
                        _CATALOG_STATE.format(catalog=catalog, key=key, first_id=_FIRST_ID)
                        for catalog, key in _CATALOGS.items()
                    ),
                    *(_TABLE_STATE.format(table=table) for table in tables.keys() - self._empty),
                ]
            ).encode()
            self._state = self._read_state()
            self.drop = stack.pop_all().close

    def reset(self) -> bool:
        """Remove the rows that a test left; tell whether it left no other change."""
        try:
            self._connection.execute(_END_CONNECTIONS, [self._kept])
            self._connection.execute(_DROP_TEST_SCHEMA)
            if self._read_state() != self._state:
                return False
            sizes = self._read_sizes()
            for table in self._empty:
                if sizes[table]:
                    self._connection.execute(self._emptying(table, sizes[table]))
            self._connection.execute(_RESTART_SEQUENCES)
        except psycopg.OperationalError:  # the test ended all connections
            return False
        return True

    def kept_connections(self) -> set[int]:
        """Return the process ids of the connections that a reset does not end."""
        return {pid for (pid,) in self._connection.execute(_CONNECTIONS, [self._kept])}

    def _emptying(self, table: str, size: int) -> bytes:
        """Return the faster statement to empty a table.

        TRUNCATE takes longer on a small table, and the connections that are kept have to plan
        all statements again. DELETE leaves dead rows, which plans are not to be measured with.
        """
        is_small = size <= _SMALL_TABLE_BYTES
        return (f"DELETE FROM {table}" if self._kept and is_small else f"TRUNCATE {table}").encode()

    def _read_sizes(self) -> dict[str, int]:
        return dict(self._connection.execute(_TABLES).fetchall())

    def _read_state(self) -> dict[str, str]:
        return dict(self._connection.execute(self._state_query, prepare=True).fetchall())


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
        """Yield the URL of a database that no other test uses during the block."""
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
