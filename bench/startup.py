"""The duration of a start."""

import subprocess
import sys
import time
from pathlib import Path

from bench.database import Database
from bench.measurement import Round
from bench.servers import palaver


def until_serving(database: Database, log: Path) -> Round:
    """Measure the time until `palaver serve` is SERVING, on a running, migrated database."""
    start = time.perf_counter()
    with palaver(database, log):
        return _one(time.perf_counter() - start)


def importing() -> Round:
    """Measure the time of a Python process that only imports gRPC and psycopg."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import grpc, psycopg"], check=True)
    return _one(time.perf_counter() - start)


def _one(seconds: float) -> Round:
    return Round(1, 1 / seconds, seconds * 1000)
