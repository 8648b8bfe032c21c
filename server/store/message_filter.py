"""Which messages a search looks at: its scope, and what narrows it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple


class Scope(NamedTuple):
    """The messages of a session, or those of a user, or all. At most one is given."""

    session_id: str | None = None
    user_id: str | None = None


class MessageFilter(NamedTuple):
    """Narrows a search; None and no roles do not. `metadata` is a SQL/JSON path predicate."""

    roles: Sequence[str] = ()
    created_after: datetime | None = None
    created_before: datetime | None = None
    metadata: str | None = None

    @property
    def given(self) -> dict[str, Any]:
        """What narrows, by name."""
        return {
            name: list(value) if name == "roles" else value
            for name, value in self._asdict().items()
            if value is not None and value != ()
        }


EVERYTHING = Scope()
EVERY_MESSAGE = MessageFilter()

# Conditions on `messages m`, and on `sessions s` where it is of use.
FILTERS = {
    "roles": "AND m.role = ANY(%(roles)s::text[])",
    "created_after": "AND m.created_at >= %(created_after)s",
    "created_before": "AND m.created_at < %(created_before)s",
    "metadata": "AND m.metadata @@ %(metadata)s::jsonpath",
}
