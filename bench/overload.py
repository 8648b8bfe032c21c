"""Three times the load that a server sustains: what it still does, and what that costs it."""

import psutil

from bench import calls
from bench.ghz import Flood
from bench.measurement import Comparison, Round, interleaved
from bench.servers import Palaver
from bench.stage import Stage

TIMES = 3

# Of 1,000 calls each: what is beyond, HTTP/2 keeps back or refuses.
_CONNECTIONS = 4

# Callers that are patient: the measure is what the server does, not how long they wait.
_DEADLINE = 20.0
_SECONDS = 2.0

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
    flood = Flood(TIMES * sustained, _CONNECTIONS, _DEADLINE, _SECONDS)
    return stage.flood(_CALL, palaver, flood)
