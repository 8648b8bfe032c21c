"""Three times the load that a server sustains: what it still does, and what that costs it."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psutil

from bench import calls
from bench.ghz import Flood
from bench.measurement import Comparison, Round, interleaved
from bench.servers import Palaver
from bench.stage import Stage
from palaver_server.process.memory_trim import TRIM_INTERVAL_SECONDS

TIMES = 3

# Of 1,000 calls each: what is beyond, HTTP/2 keeps back or refuses.
_CONNECTIONS = 4

# Callers that are patient: the measure is what the server does, not how long they wait.
_DEADLINE = 20.0
_SECONDS = 2.0

_CALL = calls.get_session(in_flight=64)


@contextmanager
def served(stage: Stage) -> Iterator[Palaver]:
    """Runs a server for the block that leaves a core to those who flood it."""
    with ExitStack() as stack:
        with _on_cores(slice(None, -1)):
            palaver = stack.enter_context(stage.another_palaver())
        yield palaver


@contextmanager
def _on_cores(which: slice) -> Iterator[None]:
    """Has what is started in the block run on these cores alone, where there are several.

    Who makes three times as many calls would else take the cores that answer them.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        yield
        return
    os.sched_setaffinity(0, cores[which])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def flooded(stage: Stage, palaver: Palaver) -> Comparison:
    """Compares the calls that are answered well where there are too many, and just enough."""
    rates: list[float] = []

    def enough() -> Round:
        loaded = _sustained(stage, palaver)
        rates.append(loaded.rate)
        return loaded

    compared = interleaved(enough, lambda: _flood(stage, palaver, rates[-1]), rounds=stage.rounds)
    return Comparison(work=compared.floor, floor=compared.work)


def growth(stage: Stage, palaver: Palaver) -> float:
    """Gives the server's resident memory after too many calls, to that after just enough.

    What the floods left unused counts no more: the server has had the time to give it back.
    """
    process = psutil.Process(palaver.pid)
    sustained = _sustained(stage, palaver)
    before = process.memory_info().rss
    for _ in range(stage.rounds):
        _flood(stage, palaver, sustained.rate)
    time.sleep(TRIM_INTERVAL_SECONDS + _SECONDS)
    return float(process.memory_info().rss / before)


def _sustained(stage: Stage, palaver: Palaver) -> Round:
    with _on_cores(slice(-1, None)):
        return stage.load(_CALL, palaver)


def _flood(stage: Stage, palaver: Palaver, sustained: float) -> Round:
    flood = Flood(TIMES * sustained, _CONNECTIONS, _DEADLINE, _SECONDS)
    with _on_cores(slice(-1, None)):
        return stage.flood(_CALL, palaver, flood)
