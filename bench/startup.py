"""How long a start takes."""

import subprocess
import sys
import time
from pathlib import Path

from bench.database import Database
from bench.measurement import Round
from bench.servers import palaver


def until_serving(database: Database, log: Path) -> Round:
    """Starts `palaver serve` on a database that is up and migrated; until it is SERVING."""
    start = time.perf_counter()
    with palaver(database, log):
        return _one(time.perf_counter() - start)


def importing() -> Round:
    """Starts a Python that imports gRPC and psycopg, and no more."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import grpc, psycopg"], check=True)
    return _one(time.perf_counter() - start)


def _one(seconds: float) -> Round:
    return Round(1, 1 / seconds, seconds * 1000)
