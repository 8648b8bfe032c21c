"""The measured work, each with a check of its answers."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from bench import calls, checks, streams
from bench.calls import Call
from bench.database import LONGS, THOUSANDS
from bench.measurement import Round
from bench.servers import Palaver
from bench.stage import Stage
from bench.streams import Stream


@dataclass(frozen=True, slots=True)
class Work:
    """Work that a Palaver does.

    Args:
        name: Name for `--only`.
        text: Description for the table.
        run: Does the work for one round.
        check: Raises WrongAnswer if answers were wrong.
    """

    name: str
    text: str
    run: Callable[[Stage, Palaver], Round]
    check: Callable[[Palaver], None]


@dataclass(frozen=True, slots=True)
class CalledWork(Work):
    """Work that consists of calls by ghz.

    Args:
        call: The call.
    """

    call: Call


def _called(name: str, text: str, call: Call, check: Callable[[Palaver], None]) -> CalledWork:
    return CalledWork(name, text, lambda stage, palaver: stage.load(call, palaver), check, call)


def bare(work: CalledWork) -> CalledWork:
    """Return the same work on the bare server."""
    return replace(
        work,
        name=f"{work.name}_bare",
        text=f"{work.text}, of the bare server",
        run=lambda stage, _palaver: work.run(stage, stage.bare),
    )


def after_checkpoint(work: CalledWork) -> CalledWork:
    """Return the same work, with a checkpoint right before each round."""

    def run(stage: Stage, palaver: Palaver) -> Round:
        palaver.database.checkpoint()
        return work.run(stage, palaver)

    name, text = f"{work.name}_after_checkpoint", f"{work.text}, right after a checkpoint"
    return replace(work, name=name, text=text, run=run)


def _streamed(name: str, text: str, stream: Stream, check: Callable[[Palaver], None]) -> Work:
    def run(stage: Stage, palaver: Palaver) -> Round:
        return streams.read(stream, palaver, seconds=stage.seconds)

    return Work(name, text, run, check)


def _check_thousands(palaver: Palaver) -> None:
    checks.memory(palaver, THOUSANDS)


def _check_longs(palaver: Palaver) -> None:
    checks.memory(palaver, LONGS)


GET_SESSION = _called(
    "get_session",
    "GetSession, 64 calls in flight",
    calls.get_session(in_flight=64),
    checks.sessions,
)

GET_SESSION_ALONE = _called(
    "get_session_alone",
    "GetSession, 1 in flight",
    calls.get_session(in_flight=1),
    checks.sessions,
)

GET_SESSION_BY_MANY = _called(
    "workers",
    "GetSession, 64 calls in flight over 16 connections, --workers 2",
    calls.get_session(in_flight=64, connections=16),
    checks.sessions,
)

ADD_MEMORY = _called(
    "add_memory",
    "AddMemory, 1 message, 64 in flight, every commit durable",
    calls.add_memory(calls.many, in_flight=64),
    checks.added_memory,
)

ADD_MEMORY_WITH_IDS = _called(
    "add_memory_with_ids",
    "AddMemory, 1 message with an id, 64 in flight",
    calls.add_memory(calls.many, in_flight=64, with_ids=True),
    checks.added_memory,
)

ADD_MEMORY_ALONE = _called(
    "add_memory_alone",
    "AddMemory, 1 message, 1 in flight",
    calls.add_memory(calls.many, in_flight=1),
    checks.added_memory,
)

GET_MEMORY = _called(
    "get_memory",
    "GetMemory, last 10 of 1,000, 64 in flight",
    calls.get_memory(calls.thousands, in_flight=64),
    _check_thousands,
)

ADD_MANY = _called(
    "add_many",
    "AddMemory, 100 messages a call, 64 in flight, messages a second",
    calls.add_memory(calls.some, messages=100, in_flight=64),
    checks.added_memory,
)

LIST_ALL = _streamed(
    "list_all",
    "ListAllSessions, all sessions with their metadata",
    streams.all_sessions(),
    checks.all_sessions,
)

STREAM_MESSAGES = _streamed(
    "stream_messages",
    "StreamMessages, 100,000 messages",
    streams.messages_of(LONGS[0]),
    checks.messages,
)

GET_LONG_MEMORY = _called(
    "length_get_memory",
    "GetMemory, last 10 of 100,000, 64 in flight",
    calls.get_memory(calls.longs, in_flight=64),
    _check_longs,
)

# Alone: calls to the same two sessions would wait for each other.
ADD_LONG_MEMORY = _called(
    "length_add_memory",
    "AddMemory, 1 message, 1 in flight, in a session of 100,000 messages",
    calls.add_memory(calls.longs, in_flight=1),
    checks.added_memory,
)

SEARCH_USER = _called(
    "search_user",
    "SearchMemory for two words, in a user of 1,000 messages",
    calls.search(THOUSANDS),
    checks.found,
)

SEARCH_ALL = _called(
    "search_all",
    "SearchMemory for two words, over all messages",
    calls.search(),
    checks.found,
)

OF_ANY_SIZE = (
    GET_SESSION, GET_SESSION_ALONE, ADD_MEMORY, ADD_MEMORY_ALONE, GET_MEMORY, ADD_MANY,
    LIST_ALL, STREAM_MESSAGES, SEARCH_USER,
)  # fmt: skip
