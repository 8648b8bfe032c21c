"""The report of a run: tables of the calls and the faults, and the broken promises."""

from collections import Counter
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from chaos.ledger import Ledger

_MAX_SHOWN = 20


def show(ledger: Ledger, console: Console) -> None:
    """Print the tables."""
    codes = sorted({code.name for _, code in ledger.calls}, key=lambda name: (name != "OK", name))
    rows: dict[str, Counter[str]] = {}
    for (rpc, code), count in sorted(ledger.calls.items(), key=lambda one: one[0][0]):
        rows.setdefault(rpc, Counter())[code.name] += count
    calls = Table("calls", *codes)
    for rpc, counts in rows.items():
        calls.add_row(rpc, *(f"{counts[code]:,}" if counts[code] else "" for code in codes))
    console.print(calls)
    _print_counts("faults", sorted(ledger.faults.items()), console)
    _print_counts("checked at the end", _checked(ledger), console)
    for line in ledger.broken[:_MAX_SHOWN]:
        console.print(f"broken: {line}", markup=False, highlight=False, soft_wrap=True)
    if len(ledger.broken) > _MAX_SHOWN:
        console.print(f"and {len(ledger.broken) - _MAX_SHOWN} more")


def _checked(ledger: Ledger) -> Iterable[tuple[str, int]]:
    yield "sessions", len(ledger.sessions)
    yield "users", len(ledger.users)
    yield "households, with all calls predicted", len(ledger.households)
    yield "households given up, too uncertain", ledger.given_up
    yield "calls predicted", sum(household.calls for household in ledger.households)
    yield "messages acknowledged", sum(book.acknowledged for book in ledger.books)
    yield "messages that must be there", sum(len(book.live) for book in ledger.books)
    yield "messages that must be gone", sum(len(book.gone) for book in ledger.books)
    yield "messages that may be there, once", sum(book.uncertain for book in ledger.books)
    yield "keys that must be in metadata", sum(len(book.merged) for book in ledger.books)
    yield "broken promises", len(ledger.broken)


def _print_counts(title: str, counts: Iterable[tuple[str, int]], console: Console) -> None:
    table = Table(title, "", show_header=True)
    table.columns[1].justify = "right"
    for name, count in counts:
        table.add_row(name, f"{count:,}")
    console.print(table)
