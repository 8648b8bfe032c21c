"""The siege: `python -m siege`, or `make siege`."""

import asyncio
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import psutil
from rich.console import Console

from siege.attacks import ATTACKS
from siege.measurement import Limits
from siege.report import show
from siege.run import Plan, Run
from tests.support.processes import scratch_directory

_MAX_SEED = 10**6

# The width of the tables without a terminal.
_WIDTH = 160


@click.command()
@click.option("--seconds", type=click.FloatRange(min=1), default=300, show_default=True)
@click.option(
    "--seed",
    type=int,
    help="Repeat the calls of the well-behaved callers of the run with this seed.",
)
@click.option(
    "--only",
    "attacks",
    type=click.Choice(list(ATTACKS)),
    multiple=True,
    help="Run only this attack; can be repeated.",
)
@click.option(
    "--max-p99-seconds",
    type=click.FloatRange(min=0),
    default=1,
    show_default=True,
    help="Limit of the 99th percentile of the other callers' GetSession.",
)
@click.option(
    "--max-memory-mib",
    type=click.FloatRange(min=0),
    default=600,
    show_default=True,
    help="Limit of the server's resident memory.",
)
def main(
    seconds: float,
    seed: int | None,
    attacks: Sequence[str],
    max_p99_seconds: float,
    max_memory_mib: float,
) -> None:
    """Attack a server with one credential while callers with other credentials are measured.

    At the end, everything that the server acknowledged to the other callers is audited. The exit
    status is 1 if a rule did not hold; the log of the server is kept then.
    """
    seed = random.randrange(_MAX_SEED) if seed is None else seed
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up, as Ctrl-C does
    logging.getLogger("palaver_server.process.embedded_postgres").setLevel(logging.CRITICAL)
    console.print(f"seed {seed}, {seconds:g} seconds; {_machine()}")
    with scratch_directory() as directory:
        limits = Limits(max_p99_seconds, max_memory_mib)
        plan = Plan(attacks or list(ATTACKS), seconds, seed, limits)
        run = Run(plan, directory, console)
        asyncio.run(run())
        show(run, console)
        if run.broken:
            console.print(f"seed {seed}; the log is in {_keep_log(directory)}")
    sys.exit(bool(run.broken))


def _machine() -> str:
    """Return the size of the machine, and how busy it is with other work."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory().total / 2**30
    return f"{cores} cores, {memory:.0f} GiB, load average {os.getloadavg()[0]:.1f}"


def _keep_log(directory: Path) -> Path:
    kept = Path(tempfile.mkdtemp(prefix="palaver-siege-"))
    for log in directory.glob("*.log"):
        shutil.copy(log, kept)
    return kept


if __name__ == "__main__":
    main()
