"""The database's clock: times of rows do not go back when it is set back."""

import random
from contextlib import suppress

import grpc
import pytest

from palaver_server.auth.roles import POLICY, Role
from tests.support.all_writes import WRITES, assert_no_time_went_back, fill, times
from tests.support.client import Client
from tests.support.concurrency import Connection
from tests.support.rows import count_rows

# As if the clock had been a day ahead until now.
_MOVE_AHEAD = """
    UPDATE {table} SET created_at = created_at + interval '1 day',
        updated_at = updated_at + interval '1 day', deleted_at = deleted_at + interval '1 day'
"""


TABLES = ("sessions", "messages", "users")


def move_ahead(database: Connection, *tables: str) -> None:
    """Move the times of all rows, or of those of some tables, into the future."""
    for table in tables or TABLES:
        database.execute(_MOVE_AHEAD.format(table=table).encode())


def test_clock_set_back_is_tested_with_all_writes() -> None:
    writes = {method.rpartition("/")[2] for method, role in POLICY.items() if role > Role.READER}

    assert {name.partition(",")[0] for name in WRITES} == writes


@pytest.mark.parametrize("write", WRITES)
def test_clock_set_back_moves_no_updated_at_back(
    palaver: Client, database: Connection, write: str
) -> None:
    fill(palaver)
    move_ahead(database)
    before = times(database)

    WRITES[write](palaver)

    assert_no_time_went_back(before, times(database))


@pytest.mark.parametrize("write", ["AddMemory, changed message", "UpdateMessage"])
def test_clock_set_back_moves_no_message_back_whose_session_was_moved_back(
    palaver: Client, database: Connection, write: str
) -> None:
    fill(palaver)
    move_ahead(database, "messages")  # the version before moved their sessions back
    before = times(database)

    WRITES[write](palaver)

    assert_no_time_went_back(before, times(database))


def test_clock_set_back_between_random_writes_moves_no_updated_at_back(
    palaver: Client, database: Connection
) -> None:
    choose = random.Random(7)
    fill(palaver)
    for _ in range(200):
        if choose.random() < 0.3:
            move_ahead(database)
        before = times(database)
        with suppress(grpc.RpcError):  # the session or user is in another state
            WRITES[choose.choice([*WRITES])](palaver)

        assert_no_time_went_back(before, times(database))


def deleted_rows(database: Connection, *, by: str) -> int:
    """Count the rows that were deleted at this time, or earlier."""
    return sum(count_rows(database, f"{table} WHERE deleted_at <= {by}") for table in TABLES)


def test_clock_set_back_purges_rows_deleted_before_when_their_time_comes(
    palaver: Client, database: Connection
) -> None:
    fill(palaver)
    palaver.delete_user("ada")
    move_ahead(database)
    palaver.delete_user("placeholder")  # after the clock was set back
    in_future = deleted_rows(database, by="'infinity'") - deleted_rows(database, by="now()")

    palaver.purge()

    assert in_future > 0
    assert deleted_rows(database, by="'infinity'") == in_future

    for table in TABLES:
        move = f"UPDATE {table} SET deleted_at = deleted_at - interval '1 day'"
        database.execute(move.encode())
    palaver.purge()

    assert deleted_rows(database, by="'infinity'") == 0
