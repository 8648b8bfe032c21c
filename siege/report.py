"""The tables at the end of a run."""

from collections import Counter

from grpc import StatusCode
from rich.console import Console
from rich.table import Table

from chaos.ledger import Ledger
from siege.measurement import Measurement
from siege.run import Run

_MAX_LINES = 20


def show(run: Run, console: Console) -> None:
    """Print the table of attacks, what was audited, and the rules that did not hold."""
    table = Table("attack", "p50", "p99", "memory", "calls of the others", "calls of the attacker")
    for column in table.columns[1:4]:
        column.justify = "right"
    for measurement in run.measurements:
        table.add_row(*_cells(measurement))
    console.print(table)
    console.print(_audited(run.ledger), highlight=False)
    for line in run.broken[:_MAX_LINES]:
        console.print(f"broken: {line}", markup=False, highlight=False, soft_wrap=True)
    if len(run.broken) > _MAX_LINES:
        console.print(f"and {len(run.broken) - _MAX_LINES} more")


def _cells(measurement: Measurement) -> tuple[str, ...]:
    codes = Counter({code.name: count for code, count in measurement.calls.items()})
    return (
        measurement.attack,
        f"{measurement.percentile(50) * 1000:,.0f} ms",
        f"{measurement.percentile(99) * 1000:,.0f} ms",
        f"{measurement.memory:,.0f} MiB",
        _counts(codes),
        _counts(measurement.outcomes),
    )


def _counts(counts: Counter[str]) -> str:
    """Return the counts in words, that of OK first."""
    ordered = sorted(counts.items(), key=lambda one: (one[0] != StatusCode.OK.name, one[0]))
    return ", ".join(f"{count:,} {name}" for name, count in ordered)


def _audited(ledger: Ledger) -> str:
    households = ledger.households
    sessions = len(ledger.books) + sum(len(household.sessions) for household in households)
    acknowledged = sum(book.acknowledged for book in ledger.books)
    acknowledged += sum(household.acknowledged for household in households)
    return (
        f"ledger: {sessions:,} sessions, {acknowledged:,} messages acknowledged,"
        f" {len(ledger.broken)} broken promises"
    )
