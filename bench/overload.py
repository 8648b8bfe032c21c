"""Three times the load that a server sustains: its throughput and its memory under it."""

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

# Each connection carries up to 8,192 calls; HTTP/2 queues or refuses the rest.
_CONNECTIONS = 4

# A long deadline: the server's throughput is measured, not how long callers wait.
_DEADLINE = 20.0
_SECONDS = 2.0

_CALL = calls.get_session(in_flight=64)


@contextmanager
def served(stage: Stage) -> Iterator[Palaver]:
    """Run a server for the block that leaves one core to the load generator."""
    with ExitStack() as stack:
        with _on_cores(slice(None, -1)):
            palaver = stack.enter_context(stage.another_palaver())
        yield palaver


@contextmanager
def _on_cores(which: slice) -> Iterator[None]:
    """Pin processes started in the block to these cores, where there are several.

    The load generator would otherwise compete with the server for its cores.
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
    """Compare the rate of successful calls under overload with that under a sustainable load."""
    rates: list[float] = []

    def enough() -> Round:
        loaded = _sustained(stage, palaver)
        rates.append(loaded.rate)
        return loaded

    compared = interleaved(enough, lambda: _flood(stage, palaver, rates[-1]), rounds=stage.rounds)
    return Comparison(work=compared.floor, floor=compared.work)


def growth(stage: Stage, palaver: Palaver) -> float:
    """Return the ratio of the server's RSS after overload to that after a sustainable load.

    Unused memory is not counted: the server has had time to return it to the system.
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
