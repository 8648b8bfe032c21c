"""The bench: `python -m bench`, or `make bench`."""

import sys

import click

from bench import ghz, machine
from bench.measurement import WrongAnswer
from bench.row import Result, Row
from bench.rows import every_row
from bench.stage import Stage, progress, set_up
from bench.table import Results, table

_SESSIONS_AT_SCALE_1 = 1_000_000


@click.command()
@click.option(
    "--scale",
    type=click.FloatRange(min=0.0001, max=1),
    default=0.02,
    show_default=True,
    help="1 is 1,000,000 sessions and 10,000,000 messages.",
)
@click.option(
    "--only", multiple=True, metavar="NAME", help="Measure only this row; can be repeated."
)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=0.1), default=1.0, show_default=True)
def main(scale: float, only: tuple[str, ...], rounds: int, seconds: float) -> None:
    """Measure Palaver against its floors, and print a table of ratios.

    The exit status is 1 if answers were wrong; a slow result does not change it.
    """
    sessions = round(scale * _SESSIONS_AT_SCALE_1)
    chosen = _chosen(every_row(sessions), only)
    program = ghz.find()
    left_out = [] if program else [row for row in chosen if row.needs_ghz]
    if left_out:
        progress(f"ghz is missing ({ghz.INSTALL}): {_names(left_out)} will be left out")
    with set_up(sessions=sessions, ghz_program=program, rounds=rounds, seconds=seconds) as stage:
        lines = machine.description(stage, program)
        lines.append(f"scale {scale:g}; medians of {rounds} rounds of {seconds:g} s each, in turns")
        results = [(row, _measured(row, stage)) for row in chosen if row not in left_out]
    _report(lines, results, left_out)
    sys.exit(any(isinstance(result, WrongAnswer) for _, result in results))


def _report(lines: list[str], results: Results, left_out: list[Row]) -> None:
    click.echo("\n".join(f"- {line}" for line in lines))
    click.echo(f"\n{table(results)}\n")
    for row, result in results:
        if isinstance(result, WrongAnswer):
            click.echo(f"Wrong answers: {row.name}: {result}")
    if left_out:
        click.echo(f"Not measured, because ghz is missing ({ghz.INSTALL}): {_names(left_out)}.")


def _chosen(rows: list[Row], only: tuple[str, ...]) -> list[Row]:
    unknown = set(only) - {row.name for row in rows}
    if unknown:
        raise click.UsageError(f"no row is named {', '.join(unknown)}; there are: {_names(rows)}")
    return [row for row in rows if not only or row.name in only]


def _measured(row: Row, stage: Stage) -> Result | WrongAnswer:
    progress(f"measuring {row.name}")
    try:
        result = row.measure(stage)
    except WrongAnswer as error:
        progress(f"{row.name}: WRONG: {error}")
        return error
    progress(f"{row.name}: {result.ratio:.2f}{row.asked.unit}")
    return result


def _names(rows: list[Row]) -> str:
    return ", ".join(row.name for row in rows)


if __name__ == "__main__":
    main()
