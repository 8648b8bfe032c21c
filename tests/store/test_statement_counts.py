"""Statement counts of writes, including BEGIN and COMMIT."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from palaver_server.auth.access import EVERYTHING, Access
from palaver_server.database.pool import Pool
from palaver_server.store.expected import Expected
from palaver_server.store.memory import AddedMemory, AddOptions, MemoryStore, NewMessage
from palaver_server.store.sessions import SessionStore
from palaver_server.store.users import UserStore
from tests.conftest import Run
from tests.support.concurrency import Connection, begin, wait_until_blocked

# The server sends each statement that it executes as a notice.
_LOG = "-c log_statement=all -c client_min_messages=log"


class Counted:
    """A pool with one connection, and the statements that PostgreSQL executed on it."""

    def __init__(self, pool: Pool, run: Run) -> None:
        self.pool = pool
        self.statements: list[str] = []
        self._memory = MemoryStore(pool)
        self._run = run

    def note(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        kind, found, statement = (diagnostic.message_primary or "").partition(": ")
        if found and kind.split()[0] in ("statement", "execute"):
            self.statements.append(" ".join(statement.split()))

    def add(
        self,
        session_id: str,
        user_id: str | None = None,
        *,
        message_id: str | None = None,
        expected: int | None = None,
        access: Access = EVERYTHING,
    ) -> tuple[AddedMemory, int]:
        """Add a message; return the result, and how many statements it took."""
        message = NewMessage(message_id, "user", "hello", 0, "{}", None)
        before = len(self.statements)
        added = self._run(
            self._memory.add_memory(
                access,
                session_id,
                [message],
                user_id=user_id,
                options=AddOptions(Expected(last_sequence=expected)),
            )
        )
        return added, len(self.statements) - before


@pytest.fixture
def counted(database_url: str, database: Connection, run: Run) -> Iterator[Counted]:
    if database.info.parameter_status("is_superuser") != "on":
        pytest.skip("only a superuser may log statements")
    pool = Pool(make_conninfo(database_url, options=_LOG), min_size=1, max_size=1, timeout=10)
    counted = Counted(pool, run)

    async def listen() -> None:
        await pool.open()
        async with pool.connection() as connection:
            connection.add_notice_handler(counted.note)

    run(listen())
    yield counted
    run(pool.close())


def test_add_memory_of_a_first_write_takes_one_statement_and_with_a_user_at_most_four(
    counted: Counted,
) -> None:
    alone, of_none = counted.add("s1")
    first, of_new_user = counted.add("s2", "ada")
    second, of_known_user = counted.add("s3", "ada")
    bound, of_bound_caller = counted.add("s4", "bob", access=Access("bob"))
    with_id, of_id = counted.add("s5", "eve", message_id="m1", expected=0)

    assert all(added.session_created for added in (alone, first, second, bound, with_id))
    assert of_none == 1
    assert of_new_user == of_known_user == of_bound_caller == 2
    assert of_id == 4


@pytest.mark.parametrize("user_id", [None, "ada", "bob"])
def test_add_memory_to_a_live_session_takes_one_statement(
    counted: Counted, user_id: str | None
) -> None:
    counted.add("s", "ada")

    added, statements = counted.add("s", user_id)

    assert (added.session_created, added.messages[0].sequence, statements) == (False, 2, 1)


def test_add_memory_to_a_live_session_creates_no_user(
    counted: Counted, run: Run, database: Connection
) -> None:
    counted.add("s", "ada")
    counted.add("s", "bob")
    counted.add("s", "eve", message_id="m1")

    assert database.execute("SELECT user_id FROM users").fetchall() == [("ada",)]


@pytest.mark.parametrize(("user_id", "most"), [(None, 5), ("ada", 6)])
def test_add_memory_to_a_deleted_session_locks_it_first(
    counted: Counted, run: Run, user_id: str | None, most: int
) -> None:
    counted.add("s", "ada")
    run(SessionStore(counted.pool).delete_session(EVERYTHING, "s"))

    added, statements = counted.add("s", user_id)

    assert added.session_undeleted
    assert statements == most


def test_add_memory_to_a_session_deleted_with_its_user_is_retried_once(
    counted: Counted, run: Run
) -> None:
    counted.add("s", "ada")
    run(UserStore(counted.pool).delete_user(EVERYTHING, "ada"))

    added, _ = counted.add("s", "ada")

    assert added.session_created
    assert [text for text in counted.statements if text == "ROLLBACK"] == ["ROLLBACK"]


def test_add_memory_that_loses_the_race_to_create_a_session_appends_and_creates_no_user(
    counted: Counted, database_url: str, database: Connection
) -> None:
    with psycopg.connect(database_url) as rival:
        rival.execute("INSERT INTO sessions (session_id) VALUES ('s')")
        adding = begin(lambda: counted.add("s", "ada"))
        wait_until_blocked(database, 1)
        rival.commit()
        added, _ = adding.result()

    assert not added.session_created
    assert database.execute("SELECT count(*) FROM users").fetchone() == (0,)
    assert database.execute("SELECT user_id, last_sequence FROM sessions").fetchone() == (None, 1)


def test_add_memory_locks_the_user_before_it_creates_the_session(
    counted: Counted, database_url: str, database: Connection
) -> None:
    counted.add("first", "ada")
    with psycopg.connect(database_url) as rival:
        rival.execute("SELECT FROM users WHERE user_id = 'ada' FOR UPDATE")
        adding = begin(lambda: counted.add("s", "ada"))
        wait_until_blocked(database, 1)
        database.execute("SET lock_timeout = '2s'")
        database.execute("INSERT INTO sessions (session_id) VALUES ('s')")  # does not wait
        rival.rollback()
        added, _ = adding.result()

    assert (added.session_created, added.messages[0].sequence) == (False, 1)


def test_add_memory_that_waited_for_the_delete_of_its_user_comes_after_it(
    counted: Counted, database_url: str, database: Connection
) -> None:
    counted.add("first", "ada")
    with psycopg.connect(database_url) as rival:
        rival.execute("SELECT FROM users WHERE user_id = 'ada' FOR UPDATE")
        adding = begin(lambda: counted.add("s", "ada"))
        wait_until_blocked(database, 1)
        rival.execute("UPDATE users SET deleted_at = clock_timestamp() WHERE user_id = 'ada'")
        (deleted_at,) = rival.execute("SELECT deleted_at FROM users").fetchone() or ()
        rival.commit()
        added, _ = adding.result()

    assert added.session_created
    times = database.execute(
        "SELECT s.created_at, m.created_at, u.created_at FROM sessions s"
        " JOIN messages m USING (session_id) JOIN users u USING (user_id)"
        " WHERE session_id = 's' AND u.deleted_at IS NULL"
    ).fetchone()
    assert times is not None
    assert min(times) >= deleted_at
