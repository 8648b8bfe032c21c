"""The figures of one attack, and the rules that they must keep."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import ceil, inf

from grpc import StatusCode


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of the rules.

    Args:
        seconds: The limit of the 99th percentile of the other callers' GetSession.
        memory: The limit of the server's resident memory, in MiB.
    """

    seconds: float
    memory: float


@dataclass(slots=True)
class Measurement:
    """The figures of one attack.

    Attributes:
        attack: The name of the attack.
        seconds: How long each GetSession of the other callers took; infinite if it failed.
        calls: How many calls of the other callers ended with each code.
        memory: The peak of the server's resident memory, in MiB.
        outcomes: How the attacker's calls ended.
    """

    attack: str
    seconds: list[float] = field(default_factory=list)
    calls: Counter[StatusCode] = field(default_factory=Counter)
    memory: float = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    def percentile(self, percent: float) -> float:
        """Return a percentile of the durations; infinite if there are none."""
        ordered = sorted(self.seconds)
        return ordered[ceil(len(ordered) * percent / 100) - 1] if ordered else inf

    def broken_rules(self, limits: Limits) -> Iterator[str]:
        """Yield each rule that did not hold, with the figure."""
        p99 = self.percentile(99)
        if p99 >= limits.seconds:
            yield f"p99 of the others' GetSession: {p99:.3f} s, must be below {limits.seconds:g} s"
        refused = self.calls[StatusCode.RESOURCE_EXHAUSTED]
        if refused:
            yield f"{refused:,} calls of the others ended with RESOURCE_EXHAUSTED"
        if self.memory >= limits.memory:
            yield f"memory: {self.memory:.0f} MiB, must be below {limits.memory:g} MiB"
