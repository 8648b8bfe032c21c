"""Three times the load that a server sustains: what it still does, and what that costs it."""

import psutil

from bench import calls
from bench.ghz import Flood
from bench.measurement import Comparison, Round, interleaved
from bench.servers import Palaver
from bench.stage import Stage

TIMES = 3
CONNECTIONS = 8
DEADLINE = 2.0

# Longer than the deadline, or nobody would have waited in vain yet.
_SECONDS = 4.0

_CALL = calls.get_session(in_flight=64)


def flooded(stage: Stage, palaver: Palaver) -> Comparison:
    """Compares the calls that are answered well where there are too many, and just enough."""
    rates: list[float] = []

    def enough() -> Round:
        loaded = stage.load(_CALL, palaver)
        rates.append(loaded.rate)
        return loaded

    compared = interleaved(enough, lambda: _flood(stage, palaver, rates[-1]), rounds=stage.rounds)
    return Comparison(work=compared.floor, floor=compared.work)


def growth(stage: Stage, palaver: Palaver) -> float:
    """Gives the server's resident memory after too many calls, to that after just enough."""
    process = psutil.Process(palaver.pid)
    sustained = stage.load(_CALL, palaver)
    before = process.memory_info().rss
    for _ in range(stage.rounds):
        _flood(stage, palaver, sustained.rate)
    return float(process.memory_info().rss / before)


def _flood(stage: Stage, palaver: Palaver, sustained: float) -> Round:
    flood = Flood(TIMES * sustained, CONNECTIONS, DEADLINE, _SECONDS)
    return stage.flood(_CALL, palaver, flood)
