"""Fixtures of the tests that call a server: its users, credentials, and competing writers."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from palaver.v1.memory_pb2 import Message
from palaver.v1.user_pb2 import User
from palaver_server.auth import sources
from palaver_server.auth.roles import Role
from palaver_server.embedding import worker
from tests.conftest import StartServer
from tests.support.callers import KeysFile, caller
from tests.support.client import Client, struct, wait_until
from tests.support.concurrency import Connection, crowd
from tests.support.endpoint import Endpoint
from tests.support.rows import count_rows


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server look at credential files every 50 ms."""
    monkeypatch.setattr(sources, "FILE_POLL_INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr(sources, "_FILE_SETTLE_SECONDS", 0.01)


@pytest.fixture
def keys_file(tmp_path: Path) -> KeysFile:
    """An empty credentials file."""
    return KeysFile(tmp_path / "credentials.toml")


@pytest.fixture
def admin(start_server: StartServer, keys_file: KeysFile) -> Iterator[Client]:
    """A client with an admin's key, on a server that also knows a key limited to `ada`."""
    key = keys_file.add(Role.ADMIN)
    keys_file.add(Role.WRITER, "ada")
    server = start_server(credentials=keys_file.path)
    with caller(server.address, key) as client:
        yield client


@pytest.fixture
def scoped(admin: Client, keys_file: KeysFile) -> Iterator[Client]:
    """A client with a writer's key whose access scope is the user `ada`."""
    with caller(admin.address, keys_file.keys[1]) as client:
        yield client


@pytest.fixture
def rival(start_server: StartServer, database_url: str) -> Iterator[Connection]:
    """A competing writer: a connection in a transaction, which the test ends."""
    with psycopg.connect(database_url) as connection:
        yield connection
        connection.rollback()


@pytest.fixture
def callers(request: pytest.FixtureRequest, start_server: StartServer) -> Iterator[list[Client]]:
    """32 callers, spread over two servers on one database, or as many as the test asks for."""
    servers = [start_server(pool_timeout_seconds=60) for _ in range(getattr(request, "param", 2))]
    with crowd(servers, 32) as callers:
        yield callers


@pytest.fixture
def abc(palaver: Client) -> None:
    """Add the messages `a`, `b` and `c` to the session `s`."""
    palaver.add_memory(
        "s",
        [
            Message(message_id=name, role="user", content=name, metadata=struct(mine=1))
            for name in "abc"
        ],
    )


@pytest.fixture
def ada(palaver: Client) -> User:
    """A user with the session `s` of two messages, and the deleted session `before`."""
    user = palaver.add_user("ada", email="ada@example.com", metadata=struct(secret=1))
    for session_id in ("s", "before"):
        palaver.add_session(session_id, user_id="ada", metadata=struct(secret=2))
        palaver.add(session_id, "one", "two")
    palaver.delete_session("before")
    return user


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the embedding worker look for messages, retry and report without long pauses."""
    monkeypatch.setattr(worker, "_POLL_INTERVAL_SECONDS", 0.2)
    monkeypatch.setattr(worker, "_MIN_RETRY_DELAY_SECONDS", 0.05)
    monkeypatch.setattr(worker, "_MAX_RETRY_DELAY_SECONDS", 0.2)
    monkeypatch.setattr(worker, "_REPORT_INTERVAL_SECONDS", 0.02)


@pytest.fixture
def embedding_server(
    short_pauses: None, start_server: StartServer, endpoint: Endpoint, database: Connection
) -> Client:
    """A server that embeds by the test's endpoint, after its first backfill."""
    server = start_server(**endpoint.settings)
    backfilled = "embedding_models WHERE walk_session_id IS NULL"
    wait_until(lambda: count_rows(database, backfilled) == 1)
    return server
