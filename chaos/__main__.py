"""The chaos run: `python -m chaos`, or `make chaos`."""

import asyncio
import logging
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console

from chaos.report import show
from chaos.run import Run
from tests.support.processes import scratch_directory

_MAX_SEEDS = 10**6

# The width of the tables without a terminal.
_WIDTH = 120


@click.command()
@click.option("--seconds", type=click.FloatRange(min=1), default=300, show_default=True)
@click.option("--seed", type=int, help="Repeat the faults of the run with this seed.")
def main(seconds: float, seed: int | None) -> None:
    """Call two servers for some time while they and PostgreSQL are killed and frozen.

    At the end, check everything that was acknowledged. Exit with status 1, and keep the
    logs, if a promise was broken.
    """
    seed = random.randrange(_MAX_SEEDS) if seed is None else seed
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up, as Ctrl-C does
    console.print(f"seed {seed}, {seconds:g} seconds")
    # It logs an error for each fault.
    logging.getLogger("palaver_server.process.embedded_postgres").setLevel(logging.CRITICAL)
    with scratch_directory() as directory:
        run = Run(seed, seconds, directory, console)
        asyncio.run(run())
        show(run.ledger, console)
        if run.ledger.broken:
            console.print(f"seed {seed}; the logs are in {_keep_logs(directory)}")
    sys.exit(bool(run.ledger.broken))


def _keep_logs(directory: Path) -> Path:
    kept = Path(tempfile.mkdtemp(prefix="palaver-chaos-"))
    for log in directory.rglob("*.log"):
        place = kept / log.relative_to(directory)
        place.parent.mkdir(exist_ok=True)
        shutil.copy(log, place)
    return kept


if __name__ == "__main__":
    main()
