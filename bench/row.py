"""Rows of the table, and the ways to measure them."""

from collections.abc import Callable
from dataclasses import dataclass

from bench.calls import Call
from bench.database import Database
from bench.measurement import Comparison, Figure, Round, p50, rate
from bench.stage import Stage
from bench.works import CalledWork, Work

Floor = Callable[[Database, float], Round]


@dataclass(frozen=True, slots=True)
class Asked:
    """The required bound of a ratio; without one, the ratio is only reported."""

    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome: the ratio, or the growth in MiB, and the medians of both sides."""

    ratio: float
    work: Round | None = None
    floor: Round | None = None

    @classmethod
    def of(cls, compared: Comparison, figure: Figure) -> "Result":
        """Create the result of a comparison from one of its figures."""
        work, floor = Round.median(compared.work), Round.median(compared.floor)
        return cls(compared.ratio(figure), work, floor)


@dataclass(frozen=True, slots=True)
class Row:
    """One row. `measure` raises WrongAnswer where answers are wrong.

    Args:
        name: For `--only`.
        work: The work, as the table describes it.
        against: The floor, as the table describes it.
        asked: The bound of the ratio.
        measure: Measures the row.
        needs_ghz: Whether measuring needs ghz.
    """

    name: str
    work: str
    against: str
    asked: Asked
    measure: Callable[[Stage], Result]
    needs_ghz: bool = True


def against_empty(work: CalledWork, asked: Asked, figure: Figure = rate) -> Row:
    """Compare calls with the same calls to the empty server."""

    def measure(stage: Stage) -> Result:
        compared = stage.compare(
            lambda: work.run(stage, stage.full), lambda: stage.load_empty(work.call)
        )
        work.check(stage.full)
        return Result.of(compared, figure)

    against = "empty RPC, p50" if figure is p50 else "empty RPC"
    return Row(work.name, work.text, against, asked, measure)


def against_floor(
    work: Work, against: str, floor: Floor, asked: Asked, figure: Figure = rate
) -> Row:
    """Compare work with the same work by plain psycopg."""

    def measure(stage: Stage) -> Result:
        compared = stage.compare(
            lambda: work.run(stage, stage.full), lambda: floor(stage.full.database, stage.seconds)
        )
        work.check(stage.full)
        return Result.of(compared, figure)

    return Row(work.name, work.text, against, asked, measure, isinstance(work, CalledWork))


def against_small(work: Work, full_size: str, small_size: str, asked: Asked) -> Row:
    """Compare work in the full database with the same in the small one."""

    def measure(stage: Stage) -> Result:
        compared = stage.compare(
            lambda: work.run(stage, stage.full), lambda: work.run(stage, stage.small)
        )
        for palaver in (stage.full, stage.small):
            work.check(palaver)
        return Result.of(compared, rate)

    name, text = f"size_{work.name}", f"{work.text}, with {full_size}"
    return Row(name, text, f"with {small_size}", asked, measure, isinstance(work, CalledWork))


def against_call(work: CalledWork, against: str, other: Call, asked: Asked) -> Row:
    """Compare calls with other calls to the same server."""

    def measure(stage: Stage) -> Result:
        compared = stage.compare(
            lambda: work.run(stage, stage.full), lambda: stage.load(other, stage.full)
        )
        work.check(stage.full)
        return Result.of(compared, rate)

    return Row(work.name, work.text, against, asked, measure)
