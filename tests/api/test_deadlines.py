"""Deadlines: the caller's, the default, and the statement timeout; each cancels the SQL."""

import random
from functools import partial

import grpc
import psycopg
import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import AddMemoryRequest, StreamMessagesRequest
from palaver.v1.session_service_pb2 import GetSessionRequest
from tests.conftest import StartServer
from tests.support.client import Client, refused
from tests.support.concurrency import (
    MAX_WAIT_SECONDS,
    Connection,
    begin,
    count_blocked,
    unless_refused,
    wait_until_blocked,
)
from tests.support.locks import locked

DEADLINE_EXCEEDED = grpc.StatusCode.DEADLINE_EXCEEDED


def add_request(*contents: str) -> AddMemoryRequest:
    messages = [Message(role="user", content=content) for content in contents]
    return AddMemoryRequest(session_id="s", messages=messages)


def test_deadline_exceeded_write_cancels_statement_and_writes_nothing(
    palaver: Client, database_url: str, database: Connection
) -> None:
    palaver.add("s", "one", timeout=60)

    with locked(database_url):
        call = palaver.memory.AddMemory.future(add_request("two", "three"), timeout=1)
        wait_until_blocked(database)
        assert call.code() is DEADLINE_EXCEEDED
        wait_until_blocked(database, 0)

    assert palaver.get_session("s").last_sequence == 1


def test_deadline_exceeded_read_cancels_statement(
    palaver: Client, database_url: str, database: Connection
) -> None:
    palaver.add("s", "one")

    with psycopg.connect(database_url) as other:
        other.execute("LOCK TABLE sessions")
        call = palaver.sessions.GetSession.future(GetSessionRequest(session_id="s"), timeout=1)
        wait_until_blocked(database)
        assert call.code() is DEADLINE_EXCEEDED
        wait_until_blocked(database, 0)


def test_deadline_cancelled_call_cancels_statement_and_writes_nothing(
    palaver: Client, database_url: str, database: Connection
) -> None:
    palaver.add("s", "one", timeout=60)

    with locked(database_url):
        call = palaver.memory.AddMemory.future(add_request("two", "three"))
        wait_until_blocked(database)
        call.cancel()
        wait_until_blocked(database, 0)

    assert palaver.get_session("s").last_sequence == 1


def test_deadline_default_applies_only_without_own_deadline(
    start_server: StartServer, database_url: str, database: Connection
) -> None:
    palaver = start_server(default_deadline_seconds=0.3)
    palaver.add("s", "one", timeout=60)

    with locked(database_url):
        patient = palaver.memory.AddMemory.future(add_request("two"), timeout=60)
        wait_until_blocked(database, 1)
        with refused(DEADLINE_EXCEEDED) as refusal:
            palaver.memory.AddMemory(add_request("three"))
        assert not patient.done()
        assert count_blocked(database) == 1

    assert refusal.detail(ErrorInfo).reason == "DEADLINE_EXCEEDED"
    assert patient.result().messages[0].sequence == 2
    assert palaver.get_session("s").last_sequence == 2


def test_deadline_default_does_not_apply_to_streams(
    start_server: StartServer, database_url: str
) -> None:
    palaver = start_server(default_deadline_seconds=0.5)
    for _ in range(20):
        palaver.add("s", "x" * 1_000_000, timeout=60)
    stream = palaver.memory.StreamMessages(StreamMessagesRequest(session_id="s", chunk_size=1))
    received = [next(stream)]

    with locked(database_url), refused(DEADLINE_EXCEEDED):
        palaver.add("s", "late")
    received.extend(stream)

    assert len(received) == 20


def test_deadline_statement_timeout_is_deadline_exceeded(
    start_server: StartServer, database_url: str, database: Connection
) -> None:
    palaver = start_server(statement_timeout_seconds=0.2)
    palaver.add("s", "one", timeout=60)

    with locked(database_url):
        with refused(DEADLINE_EXCEEDED) as refusal:
            palaver.memory.AddMemory(add_request("two"), timeout=60)
        assert count_blocked(database) == 0

    assert refusal.detail(ErrorInfo).reason == "DEADLINE_EXCEEDED"
    assert palaver.get_session("s").last_sequence == 1


# Stores the connection's setting as the content of the message that it adds.
TELL = """
    CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.content := current_setting('idle_in_transaction_session_timeout');
        RETURN NEW;
    END $$;
    CREATE TRIGGER tell BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION tell()
"""


def test_deadline_idle_transaction_timeout_equals_statement_timeout(
    start_server: StartServer, database: Connection
) -> None:
    palaver = start_server(statement_timeout_seconds=7)
    database.execute(TELL)

    palaver.add("s", "told", expected_last_sequence=0)  # in a transaction, to compare

    assert database.execute("SELECT content FROM messages").fetchone() == ("7s",)


@pytest.mark.parametrize("with_ids", [False, True])
def test_deadline_exceeded_write_is_whole_or_absent(palaver: Client, *, with_ids: bool) -> None:
    choose = random.Random(7)
    palaver.add("s", "first")

    def add(number: int, seconds: float) -> None:
        ids = [f"{number} {n}" if with_ids else "" for n in range(3)]
        messages = [Message(role="user", content=str(number), message_id=id_) for id_ in ids]
        request = AddMemoryRequest(session_id="s", messages=messages)
        unless_refused(
            DEADLINE_EXCEEDED, lambda: palaver.memory.AddMemory(request, timeout=seconds)
        )

    calls = [begin(partial(add, number, choose.random() / 10)) for number in range(100)]
    for call in calls:
        call.result(MAX_WAIT_SECONDS)

    chunks = palaver.memory.StreamMessages(StreamMessagesRequest(session_id="s", chunk_size=1000))
    messages = [message for chunk in chunks for message in chunk.messages]
    assert [message.sequence for message in messages] == list(range(1, len(messages) + 1))
    contents = [message.content for message in messages[1:]]
    assert contents[0::3] == contents[1::3] == contents[2::3]
