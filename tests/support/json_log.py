"""Reading a server's log in its JSON format."""

import json
from collections.abc import Callable
from typing import Any

from tests.support.watching import eventually


class JsonLog:
    """The lines of a server's log.

    Args:
        read: Returns all that was logged so far.
    """

    def __init__(self, read: Callable[[], str]) -> None:
        self._read = read

    def lines(self, **fields: Any) -> list[dict[str, Any]]:
        """Return the complete lines so far that have these fields, among others."""
        *complete, _ = self._read().split("\n")
        lines = [json.loads(line) for line in complete]
        return [line for line in lines if fields.items() <= line.items()]

    def call(self, name: str) -> dict[str, Any]:
        """Wait for the line of the only call of a method, and return it."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.lines(message="call") if line["method"].endswith(name)]

        (line,) = eventually(found, f"{name} is logged")
        return line
