"""What is measured: short rounds of work and of its floor, in turns."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Self


class WrongAnswer(Exception):
    """What was measured did not do what it should have done."""


@dataclass(frozen=True, slots=True)
class Round:
    """One short round of the same work over and over.

    Args:
        done: Pieces of work: calls, messages or rows.
        rate: Pieces a second.
        p50: Milliseconds that half of the calls took at the most; None where there are no calls.
        p95: The same for 95 of 100.
        p99: The same for 99 of 100.
    """

    done: int
    rate: float
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None

    @classmethod
    def of(cls, done: int, seconds: Sequence[float]) -> Self:
        """Makes a round of pieces that came one after the other, by the seconds of each call."""
        total = sum(seconds)
        if len(seconds) < 2:
            return cls(done, done / total)
        percentiles = quantiles(seconds, n=100, method="inclusive")
        return cls(done, done / total, *(percentiles[p - 1] * 1000 for p in (50, 95, 99)))

    @classmethod
    def median(cls, rounds: Sequence["Round"]) -> Self:
        """Makes the round of the medians."""

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
    """Pieces a second: higher is better."""
    return round_.rate


def p50(round_: Round) -> float:
    """Milliseconds of the median call: lower is better."""
    if round_.p50 is None:
        raise ValueError("these rounds have no calls to take the median of")
    return round_.p50


@dataclass(frozen=True, slots=True)
class Comparison:
    """The rounds of some work and those of its floor, pair by pair."""

    work: list[Round]
    floor: list[Round]

    def ratio(self, figure: Figure) -> float:
        """The median of the pairs' ratios: the two of a pair ran next to each other."""
        pairs = zip(self.work, self.floor, strict=True)
        return median(figure(work) / figure(floor) for work, floor in pairs)


def interleaved(
    work: Callable[[], Round], floor: Callable[[], Round], *, rounds: int
) -> Comparison:
    """Measures work, floor, work, floor …; the first of each is to warm up, and left out."""
    pairs = [(work(), floor()) for _ in range(rounds + 1)][1:]
    return Comparison([pair[0] for pair in pairs], [pair[1] for pair in pairs])


def repeated(piece: Callable[[], int], *, seconds: float) -> Round:
    """Does something again and again for some seconds, once at the least.

    Args:
        piece: Does one call's work; returns how many pieces that was.
        seconds: After how long it does not start again.
    """
    done = 0
    took: list[float] = []
    end = time.perf_counter() + seconds
    while not took or time.perf_counter() < end:
        start = time.perf_counter()
        done += piece()
        took.append(time.perf_counter() - start)
    return Round.of(done, took)
