"""The rows of the table, in the order in which they are measured."""

from collections.abc import Callable
from dataclasses import replace

from bench import calls, floors, idle, overload, standby, startup, streams, works
from bench.database import LONGS, MESSAGES_PER_SESSION, THOUSANDS
from bench.measurement import Figure, p50, rate
from bench.row import (
    Asked,
    Result,
    Row,
    against_call,
    against_empty,
    against_floor,
    against_small,
)
from bench.servers import Palaver
from bench.stage import Stage
from bench.works import CalledWork

_SAME_PAGES = "psycopg fetching the same pages by the same SQL"
_ONE_SELECT = "psycopg, one SELECT"


def every_row(sessions: int) -> list[Row]:
    """Create all rows, for a full database with this number of sessions of 10 messages."""
    full, small = _size(sessions), _size(max(1, sessions // 100))
    same = Asked(at_least=0.85)
    return [
        *_against_floors(sessions),
        *(against_small(work, full, small, same) for work in works.OF_ANY_SIZE),
        _of_size_without_server(full, small),
        *_of_length(),
        *_of_too_much(),
        *_of_a_standby(),
        *_of_the_process(sessions),
    ]


def _size(sessions: int) -> str:
    return f"{sessions:,} sessions and {sessions * MESSAGES_PER_SESSION:,} messages"


def _of_size_without_server(full_size: str, small_size: str) -> Row:
    def measure(stage: Stage) -> Result:
        compared = stage.compare(
            lambda: floors.add_memory_by_statement(stage.full.database, stage.seconds),
            lambda: floors.add_memory_by_statement(stage.small.database, stage.seconds),
        )
        return Result.of(compared, rate)

    return Row(
        "size_psycopg", f"psycopg, the SQL of AddMemory in autocommit mode, with {full_size}",
        f"with {small_size}", Asked(), measure, needs_ghz=False,
    )  # fmt: skip


def _against_floors(sessions: int) -> list[Row]:
    half, just_told = Asked(at_least=0.5), Asked()
    listed = sessions + len(THOUSANDS) + len(LONGS)
    list_all = replace(
        works.LIST_ALL, text=f"ListAllSessions, {listed:,} sessions with metadata, rows a second"
    )
    stream = replace(works.STREAM_MESSAGES, text=f"{works.STREAM_MESSAGES.text}, rows a second")
    return [
        against_empty(works.GET_SESSION, Asked(at_least=1.0)),
        against_empty(works.GET_SESSION_ALONE, Asked(at_most=1.8), p50),
        against_empty(works.bare(works.GET_SESSION_ALONE), just_told, p50),
        against_empty(works.ADD_MEMORY, half),
        against_empty(works.after_checkpoint(works.ADD_MEMORY), just_told),
        against_call(
            works.ADD_MEMORY_WITH_IDS, "without ids", works.ADD_MEMORY.call, Asked(at_least=0.9)
        ),
        *_of_lone_writes(),
        against_empty(works.GET_MEMORY, half),
        against_floor(
            works.ADD_MANY, "COPY of the same rows", floors.copy_messages, Asked(at_least=0.4)
        ),
        against_floor(list_all, _SAME_PAGES, floors.list_sessions, half),
        against_floor(
            replace(list_all, name="list_all_select"), _ONE_SELECT,
            floors.select_sessions, just_told,
        ),
        against_floor(stream, _SAME_PAGES, floors.list_messages, half),
        against_floor(
            replace(stream, name="stream_messages_select"), _ONE_SELECT,
            floors.select_messages, just_told,
        ),
    ]  # fmt: skip


def _of_lone_writes() -> list[Row]:
    alone = works.ADD_MEMORY_ALONE
    by_statement = replace(alone, name=f"{alone.name}_statement")
    transaction = "a psycopg transaction of the same SQL, p50"
    statement = "psycopg, the same SQL in autocommit mode, p50"
    return [
        against_floor(alone, transaction, floors.add_memory, Asked(at_most=2.0), p50),
        against_floor(by_statement, statement, floors.add_memory_by_statement, Asked(), p50),
        against_floor(
            works.bare(by_statement), statement, floors.add_memory_by_statement, Asked(), p50
        ),
    ]


def _of_length() -> list[Row]:
    asked = Asked(at_least=0.9)
    get_short = calls.get_memory(calls.as_many_as_longs, in_flight=64)
    add_short = works.ADD_MEMORY_ALONE.call
    search_all = against_call(
        works.SEARCH_ALL, "in a user of 1,000 messages", works.SEARCH_USER.call, Asked()
    )
    return [
        against_call(works.GET_LONG_MEMORY, "last 10 of 10", get_short, asked),
        against_call(works.ADD_LONG_MEMORY, "in sessions of 10", add_short, asked),
        search_all,
    ]


def _of_too_much() -> list[Row]:
    too_much = f"GetSession at {overload.TIMES} times the load that it sustains"
    return [
        Row(
            "overload", f"{too_much}, answered well", "GetSession, 64 in flight",
            Asked(at_least=0.8), _overload,
        ),
        Row(
            "overload_memory", f"memory of the server after {too_much}", "after 64 in flight",
            Asked(at_most=1.5), _overload_memory,
        ),
    ]  # fmt: skip


def _of_a_standby() -> list[Row]:
    return [_with_standby(works.GET_MEMORY, rate), _with_standby(works.GET_SESSION_ALONE, p50)]


def _with_standby(work: CalledWork, figure: Figure) -> Row:
    def measure(stage: Stage) -> Result:
        with standby.served(stage) as reading:
            compared = stage.compare(
                lambda: work.run(stage, reading), lambda: work.run(stage, stage.full)
            )
            work.check(reading)
        return Result.of(compared, figure)

    text, against = f"{work.text}, read from a standby", "from the primary"
    if figure is p50:
        against += ", p50"
    return Row(f"standby_{work.name}", text, against, Asked(), measure)


def _overload(stage: Stage) -> Result:
    with overload.served(stage) as palaver:
        return Result.of(overload.flooded(stage, palaver), rate)


def _overload_memory(stage: Stage) -> Result:
    with overload.served(stage) as palaver:
        return Result(overload.growth(stage, palaver))


def _of_the_process(sessions: int) -> list[Row]:
    streamed = f"memory of the server after streaming {sessions:,} sessions to a slow reader"
    connection = f"memory of the server for each of {idle.CONNECTIONS:,} idle connections"
    stream = f"memory of the server for each of {idle.STREAMS} streams that are not read further"
    workers = works.GET_SESSION_BY_MANY
    return [
        Row(workers.name, workers.text, "one process", Asked(), _two_workers),
        _of_memory(
            "slow_reader", streamed, Asked(at_most=32, unit=" MiB"), streams.growth_with_slow_reader
        ),
        _of_memory(
            "idle_connections", connection, Asked(unit=" KiB"), idle.memory_per_connection
        ),
        _of_memory("idle_streams", stream, Asked(unit=" KiB"), idle.memory_per_stream),
        Row(
            "startup", "time from start to SERVING, database up, nothing to migrate",
            "importing grpc and psycopg alone", Asked(at_most=2.5), _startup, needs_ghz=False,
        ),
    ]  # fmt: skip


def _of_memory(name: str, text: str, asked: Asked, growth: Callable[[Palaver], float]) -> Row:
    """Measure the memory of a new server, which no earlier load has grown."""

    def measure(stage: Stage) -> Result:
        with stage.another_palaver() as palaver:
            return Result(growth(palaver))

    return Row(name, text, "before", asked, measure, needs_ghz=False)


def _two_workers(stage: Stage) -> Result:
    work = works.GET_SESSION_BY_MANY
    with stage.another_palaver(workers=2) as two:
        compared = stage.compare(lambda: work.run(stage, two), lambda: work.run(stage, stage.full))
        work.check(two)
    return Result.of(compared, rate)


def _startup(stage: Stage) -> Result:
    compared = stage.compare(
        lambda: startup.until_serving(stage.full.database, stage.log), startup.importing
    )
    return Result.of(compared, p50)
