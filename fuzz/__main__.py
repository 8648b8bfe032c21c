"""The fuzzer: `python -m fuzz`, or `make fuzz`."""

import asyncio
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

import click

from fuzz.run import Tally, run
from fuzz.servers import Fuzzed, fuzzed_server

_MAX_GROWTH_MEBIBYTES = 256  # room for several of the largest requests at once

_CASES_TO_WARM_UP = 2_000

_MAX_SHOWN_BYTES = 4096


@click.command()
@click.option("--cases", type=click.IntRange(min=1), default=100_000, show_default=True)
@click.option(
    "--seed", type=click.IntRange(min=0), help="Repeat the cases of this seed; by default random."
)
@click.option("--in-flight", type=click.IntRange(min=1), default=64, show_default=True)
def main(cases: int, seed: int | None, in_flight: int) -> None:
    """Send odd and malformed requests to every method, and check that nothing breaks.

    The exit status is 1 if a call hung or ended with a code that its method must not return, if
    the log shows a bug, if the server stopped serving, or if its memory grew beyond the limit.
    """
    seed = secrets.randbelow(2**32) if seed is None else seed
    click.echo(f"{cases:,} cases from seed {seed}, {in_flight} at a time")
    with fuzzed_server() as server:
        found = _fuzz(server, cases, seed, in_flight)
        if found:
            kept = shutil.copy(server.log, Path(tempfile.gettempdir()) / f"palaver-fuzz-{seed}.log")
            found.append(f"the server's log is kept as {kept}")
    click.echo("\n".join(found) if found else "Nothing broke.")
    sys.exit(bool(found))


def _fuzz(server: Fuzzed, cases: int, seed: int, in_flight: int) -> list[str]:
    """Run the cases, and return the problems found."""
    memory = [server.memory]

    def done(number: int) -> None:
        if number <= _CASES_TO_WARM_UP:
            memory[0] = server.memory
        click.echo(f"{number:,} begun; {server.memory:.0f} MiB", err=True)

    tally = asyncio.run(
        run(server.address, number=cases, seed=seed, in_flight=in_flight, done=done)
    )
    click.echo(_counts(tally))
    growth = server.memory - memory[0]
    click.echo(f"memory grew by {growth:.0f} MiB to {server.memory:.0f} MiB after the warm-up")
    found = [
        f"{method}: {wrong}\n  request: {_hex(case.request)}"
        for (method, _), (case, wrong) in tally.faults.items()
    ]
    found += [f"in the log: {line}" for line in server.troubles()]
    if not server.is_serving:
        found.append("the server has stopped serving")
    if growth > _MAX_GROWTH_MEBIBYTES:
        found.append(f"memory grew by {growth:.0f} MiB, more than {_MAX_GROWTH_MEBIBYTES}")
    return found


def _hex(request: bytes) -> str:
    """Format a request; cut a long one, since the seed repeats it."""
    text = request[:_MAX_SHOWN_BYTES].hex()
    return text if len(request) <= _MAX_SHOWN_BYTES else f"{text}… ({len(request):,} bytes)"


def _counts(tally: Tally) -> str:
    """Format the counts by method and code."""
    lines = []
    for method in sorted({method for method, _ in tally.codes}):
        ends = {code: count for (of, code), count in tally.codes.items() if of == method}
        text = ", ".join(f"{code} {ends[code]:,}" for code in sorted(ends))
        lines.append(f"{method}: {text}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
