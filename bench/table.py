"""The table, in Markdown."""

from bench.measurement import Round, WrongAnswer
from bench.row import Asked, Result, Row

_HEADER = (
    "row", "work", "against", "ratio", "asked for", "reached",
    "work: a second", "p50 ms", "p95", "p99", "against: a second", "p50 ms", "p95", "p99",
)  # fmt: skip

_LEFT_ALIGNED = 3

Results = list[tuple[Row, Result | WrongAnswer]]


def table(results: Results) -> str:
    """Format the results; a row with wrong answers has no figures."""
    lines = [_HEADER, *(_cells(row, result) for row, result in results)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADER))]
    rule = tuple(
        "-" * width if column < _LEFT_ALIGNED else "-" * (width - 1) + ":"
        for column, width in enumerate(widths)
    )
    return "\n".join(_line(cells, widths) for cells in (lines[0], rule, *lines[1:]))


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    padded = (
        cell.ljust(width) if column < _LEFT_ALIGNED else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return f"| {' | '.join(padded)} |"


def _cells(row: Row, result: Result | WrongAnswer) -> tuple[str, ...]:
    start = (row.name, row.work, row.against)
    if isinstance(result, WrongAnswer):
        return (*start, "", _bound(row.asked), "WRONG", *[""] * 8)
    ratio = f"{result.ratio:+.1f}{row.asked.unit}" if row.asked.unit else f"{result.ratio:.2f}"
    reached = _reached(row.asked, result.ratio)
    return (
        *start,
        ratio,
        _bound(row.asked),
        reached,
        *_figures(result.work),
        *_figures(result.floor),
    )


def _bound(asked: Asked) -> str:
    if asked.at_least is not None:
        return f"at least {asked.at_least:.2f}"
    return "" if asked.at_most is None else f"at most {asked.at_most:g}{asked.unit}"


def _reached(asked: Asked, ratio: float) -> str:
    if asked.at_least is None and asked.at_most is None:
        return ""
    above = asked.at_least is None or ratio >= asked.at_least
    below = asked.at_most is None or ratio <= asked.at_most
    return "yes" if above and below else "no"


def _figures(round_: Round | None) -> tuple[str, ...]:
    if round_ is None:
        return ("", "", "", "")
    per_second = f"{round_.rate:,.0f}" if round_.rate >= 10 else f"{round_.rate:.2f}"
    milliseconds = (round_.p50, round_.p95, round_.p99)
    return (per_second, *("" if value is None else f"{value:.2f}" for value in milliseconds))
