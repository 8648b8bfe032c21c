"""Progress of long commands: bars on a terminal, plain lines elsewhere."""

from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import Progress


class Part(Protocol):
    """Progress on one kind of row. `done` may exceed `estimated`."""

    @property
    def done(self) -> int: ...  # noqa: D102

    @property
    def estimated(self) -> int: ...  # noqa: D102


PartT = TypeVar("PartT", bound=Part)


def show_progress(reports: Iterable[Mapping[str, PartT]], console: Console) -> Mapping[str, PartT]:
    """Show each report when it arrives, by kind, and return the last one."""
    show = _show_bars if console.is_terminal else _show_lines
    return show(reports, console)


def _show_bars(reports: Iterable[Mapping[str, PartT]], console: Console) -> Mapping[str, PartT]:
    last: Mapping[str, PartT] = {}
    bars = {}
    with Progress(console=console) as progress:
        for last in reports:
            for kind, part in last.items():
                if kind not in bars:
                    bars[kind] = progress.add_task(kind, total=None)
                total = max(part.estimated, part.done)
                progress.update(bars[kind], completed=part.done, total=total)
    return last


def _show_lines(reports: Iterable[Mapping[str, PartT]], console: Console) -> Mapping[str, PartT]:
    last: Mapping[str, PartT] = {}
    for last in reports:
        parts = (f"{kind} {part.done}/{part.estimated}" for kind, part in last.items())
        console.print(", ".join(parts))
    return last
