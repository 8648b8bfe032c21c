"""Measurements: short rounds of work and of its floor, in turns."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Self


class WrongAnswer(Exception):
    """The measured server gave a wrong answer."""


@dataclass(frozen=True, slots=True)
class Round:
    """One short round that repeats the same work.

    Args:
        done: Pieces of work: calls, messages or rows.
        rate: Pieces per second.
        p50: Median duration of the calls in milliseconds; None where there are no calls.
        p95: 95th percentile of the duration.
        p99: 99th percentile of the duration.
    """

    done: int
    rate: float
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None

    @classmethod
    def of(cls, done: int, seconds: Sequence[float]) -> Self:
        """Create a round from sequential calls, given the seconds that each took."""
        total = sum(seconds)
        if len(seconds) < 2:
            return cls(done, done / total)
        percentiles = quantiles(seconds, n=100, method="inclusive")
        return cls(done, done / total, *(percentiles[p - 1] * 1000 for p in (50, 95, 99)))

    @classmethod
    def median(cls, rounds: Sequence["Round"]) -> Self:
        """Create the round of the medians."""

        def percentile(values: list[float | None]) -> float | None:
            known = [value for value in values if value is not None]
            return median(known) if known else None

        return cls(
            done=sum(r.done for r in rounds),
            rate=median(r.rate for r in rounds),
            p50=percentile([r.p50 for r in rounds]),
            p95=percentile([r.p95 for r in rounds]),
            p99=percentile([r.p99 for r in rounds]),
        )


Figure = Callable[[Round], float]


def rate(round_: Round) -> float:
    """Return the pieces per second: higher is better."""
    return round_.rate


def p50(round_: Round) -> float:
    """Return the milliseconds of the median call: lower is better."""
    if round_.p50 is None:
        raise ValueError("these rounds have no calls to take the median of")
    return round_.p50


@dataclass(frozen=True, slots=True)
class Comparison:
    """The rounds of some work and those of its floor, pair by pair."""

    work: list[Round]
    floor: list[Round]

    def ratio(self, figure: Figure) -> float:
        """Return the median of the pairs' ratios; the rounds of a pair ran one after the other."""
        pairs = zip(self.work, self.floor, strict=True)
        return median(figure(work) / figure(floor) for work, floor in pairs)


def interleaved(
    work: Callable[[], Round], floor: Callable[[], Round], *, rounds: int
) -> Comparison:
    """Measure work, floor, work, floor …; the first of each is a warm-up, and is left out."""
    pairs = [(work(), floor()) for _ in range(rounds + 1)][1:]
    return Comparison([pair[0] for pair in pairs], [pair[1] for pair in pairs])


def repeated(piece: Callable[[], int], *, seconds: float) -> Round:
    """Repeat a piece of work for some seconds, at least once.

    Args:
        piece: Does the work of one call, and returns its number of pieces.
        seconds: No piece starts after this time.
    """
    done = 0
    took: list[float] = []
    end = time.perf_counter() + seconds
    while not took or time.perf_counter() < end:
        start = time.perf_counter()
        done += piece()
        took.append(time.perf_counter() - start)
    return Round.of(done, took)
