"""The rules of the siege find every kind of breakage."""

from collections import Counter
from collections.abc import Sequence
from math import inf

import pytest
from grpc import StatusCode

from siege.measurement import Limits, Measurement

LIMITS = Limits(seconds=1, memory=600)


def broken_rules(
    seconds: Sequence[float] = (0.1,), code: StatusCode = StatusCode.OK, memory: float = 100
) -> str:
    """Return the rules that figures break."""
    measurement = Measurement("attack", [*seconds], Counter({code: 1}), memory)
    return "; ".join(measurement.broken_rules(LIMITS))


def test_siege_rules_hold_with_good_figures() -> None:
    assert not broken_rules(199 * [0.1] + [5])


@pytest.mark.parametrize("seconds", [[], [1], 98 * [0.1] + 2 * [1.5], 98 * [0.1] + 2 * [inf]])
def test_siege_rules_find_slow_and_failed_calls(seconds: list[float]) -> None:
    assert "p99" in broken_rules(seconds)


def test_siege_rules_find_refused_calls() -> None:
    assert "RESOURCE_EXHAUSTED" in broken_rules(code=StatusCode.RESOURCE_EXHAUSTED)


def test_siege_rules_find_memory() -> None:
    assert "600 MiB" in broken_rules(memory=601)
