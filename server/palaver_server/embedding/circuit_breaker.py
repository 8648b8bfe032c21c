"""The circuit breaker: callers of a dependency that keeps failing do not wait for it."""

import time

_MAX_FAILURES = 3

OPEN_SECONDS = 5.0


class CircuitBreaker:
    """The circuit breaker of a dependency: it decides which calls are attempted.

    Closed, it admits all calls. Consecutive failures open it, and it admits none. After
    `OPEN_SECONDS` it is half-open and admits one call, the probe: a success closes the circuit,
    and after a failure the next probe follows `OPEN_SECONDS` later. A probe of which no outcome is
    recorded counts as failed.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._next_probe = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the dependency counts as failing."""
        return self._failures >= _MAX_FAILURES

    def admit(self) -> bool:
        """Return whether to attempt a call."""
        now = time.monotonic()
        if self.is_open:
            if now < self._next_probe:
                return False
            self._next_probe = now + OPEN_SECONDS
        return True

    def record_success(self) -> None:
        """Close the circuit."""
        self._failures = 0

    def record_failure(self) -> None:
        """Count a failure, which may open the circuit."""
        self._failures += 1
        self._next_probe = time.monotonic() + OPEN_SECONDS
