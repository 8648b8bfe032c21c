"""Check that answers are right, not only fast: compare them with the rows of the database."""

import json
from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict

from bench import calls, streams
from bench.database import LONGS, THOUSANDS
from bench.measurement import WrongAnswer
from bench.servers import Palaver
from bench.text import two_words
from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import GetMemoryRequest, SearchMemoryRequest
from palaver.v1.memory_service_pb2_grpc import MemoryServiceStub
from palaver.v1.session_pb2 import Session
from palaver.v1.session_service_pb2 import GetSessionRequest
from palaver.v1.session_service_pb2_grpc import SessionServiceStub

_SAMPLE = 100

_KEYWORD = SearchMemoryRequest.KEYWORD

_SESSIONS = """
    SELECT session_id, coalesce(user_id, ''), metadata::text, id, last_sequence
    FROM sessions WHERE deleted_at IS NULL AND session_id = ANY(%(session_ids)s)
"""

_EVERY_SESSION = """
    SELECT session_id, coalesce(user_id, ''), metadata::text, id, last_sequence
    FROM sessions WHERE deleted_at IS NULL ORDER BY id
"""

_MESSAGES = """
    SELECT sequence, message_id, role, content, metadata::text
    FROM messages WHERE deleted_at IS NULL AND session_id = %(session_id)s ORDER BY sequence
"""

_MATCHES = """
    SELECT count(*), coalesce(bool_or(content ILIKE ALL (%(patterns)s)), false)::integer
    FROM messages JOIN sessions USING (session_id)
    WHERE user_id = %(user_id)s AND content ILIKE ANY (%(patterns)s)
"""

_TOTALS = """
    SELECT (SELECT sum(last_sequence) FROM sessions), count(*),
        count(*) FILTER (WHERE message_id LIKE '________-____-____-____-____________'),
        count(*) FILTER (WHERE content = %(content)s AND role = %(role)s
            AND metadata = %(metadata)s::jsonb)
    FROM messages WHERE deleted_at IS NULL
"""

_TORN_SESSIONS = """
    SELECT count(*) FROM (
        SELECT session_id FROM messages GROUP BY session_id
        HAVING count(*) <> max(sequence) OR min(sequence) <> 1
    ) torn
"""


def sessions(palaver: Palaver) -> None:
    """Compare the answers of GetSession for some sessions with their rows."""
    session_ids = [*palaver.database.some_sessions(_SAMPLE), *THOUSANDS]
    with palaver.database.connected() as connection:
        rows = connection.execute(_SESSIONS, {"session_ids": session_ids}).fetchall()
    expected = {row[0]: (*row[:2], json.loads(row[2]), *row[3:]) for row in rows}
    with grpc.insecure_channel(palaver.address) as channel:
        stub = SessionServiceStub(channel)
        for session_id in session_ids:
            answer = stub.GetSession(GetSessionRequest(session_id=session_id))
            _compare("GetSession", _session_row(answer), expected[session_id])


def memory(palaver: Palaver, session_ids: Iterable[str]) -> None:
    """Compare the last 10 messages that GetMemory returns with their rows."""
    with (
        palaver.database.connected() as connection,
        grpc.insecure_channel(palaver.address) as channel,
    ):
        stub = MemoryServiceStub(channel)
        for session_id in session_ids:
            rows = connection.execute(_MESSAGES, {"session_id": session_id}).fetchall()
            expected = [(*row[:4], json.loads(row[4])) for row in rows[-10:]]
            answer = stub.GetMemory(GetMemoryRequest(session_id=session_id, last_n=10))
            _compare("GetMemory", [_message_row(one) for one in answer.messages], expected)
            _compare("GetMemory's has_more", answer.has_more, len(rows) > 10)


def found(palaver: Palaver) -> None:
    """Check that searches find messages with the words, and that the first result has both."""
    with (
        palaver.database.connected() as connection,
        grpc.insecure_channel(palaver.address) as channel,
    ):
        stub = MemoryServiceStub(channel)
        for user_id, text in zip(THOUSANDS, two_words(_SAMPLE), strict=True):
            words = text.split()
            matches = {"user_id": user_id, "patterns": [f"%{word}%" for word in words]}
            any_of_them, all_of_them = _row(connection.execute(_MATCHES, matches))
            request = SearchMemoryRequest(text=text, user_id=user_id, mode=_KEYWORD)
            results = stub.SearchMemory(request).results
            has = [[word in one.message.content.lower() for word in words] for one in results]
            _compare(f"how many {text!r} finds", len(has), min(any_of_them, 10))
            _compare(f"how many have a word of {text!r}", sum(map(any, has)), len(has))
            _compare(f"how many have all of {text!r} first", sum(map(all, has[:1])), all_of_them)


def added_memory(palaver: Palaver) -> None:
    """Check that each added message is stored once, complete and in order."""
    message = {
        "content": calls.CONTENT, "role": calls.ROLE, "metadata": json.dumps(calls.METADATA)
    }  # fmt: skip
    with palaver.database.connected() as connection:
        last_sequences, messages, added, intact = _row(connection.execute(_TOTALS, message))
        (torn,) = _row(connection.execute(_TORN_SESSIONS))
    _compare("the number of messages", messages, palaver.database.all_messages)
    _compare("the sum of last_sequence", last_sequences, palaver.database.all_messages)
    _compare("the messages with ids from the server", added, palaver.database.added)
    _compare("the messages with the content that was added", intact, palaver.database.added)
    _compare("the sessions with gaps in their sequences", torn, 0)


def all_sessions(palaver: Palaver) -> None:
    """Check that ListAllSessions returns every session once, complete and in order."""
    stream = streams.all_sessions()
    with (
        palaver.database.connected() as connection,
        grpc.insecure_channel(palaver.address) as channel,
    ):
        listed = (row for chunk in stream.chunks(channel) for row in stream.rows(chunk))
        with connection.transaction(), connection.cursor("check") as cursor:
            cursor.execute(_EVERY_SESSION)
            for row in cursor:
                expected = (*row[:2], json.loads(row[2]), *row[3:])
                answer = next(listed, None)
                _compare("ListAllSessions", answer and _session_row(answer), expected)
        _compare("what ListAllSessions gives after the last", next(listed, None), None)


def messages(palaver: Palaver) -> None:
    """Check that StreamMessages returns every message once, complete and in order."""
    stream = streams.messages_of(LONGS[0])
    with palaver.database.connected() as connection:
        rows = connection.execute(_MESSAGES, {"session_id": LONGS[0]}).fetchall()
    with grpc.insecure_channel(palaver.address) as channel:
        streamed = [
            _message_row(row) for chunk in stream.chunks(channel) for row in stream.rows(chunk)
        ]
    _compare("the number of messages streamed", len(streamed), len(rows))
    for answer, row in zip(streamed, rows, strict=True):
        _compare("StreamMessages", answer, (*row[:4], json.loads(row[4])))


def _session_row(session: Session) -> tuple[Any, ...]:
    metadata = MessageToDict(session.metadata)
    return session.session_id, session.user_id, metadata, session.id, session.last_sequence


def _message_row(message: Message) -> tuple[Any, ...]:
    metadata = MessageToDict(message.metadata)
    return message.sequence, message.message_id, message.role, message.content, metadata


def _row(cursor: Any) -> tuple[Any, ...]:
    row: tuple[Any, ...] = cursor.fetchone()
    return row


def _compare(what: str, actual: Any, expected: Any) -> None:
    if actual != expected:
        raise WrongAnswer(f"{what}: {actual!r} instead of {expected!r}"[:300])
