"""SQL statements: the text, its parameters, and the name in traces, parsed once and reused."""

import re
from dataclasses import dataclass, field

from psycopg.adapt import PyFormat

from palaver_server.durations import milliseconds

_PARAMETER = re.compile(r"%(?:%|\((\w+)\)([sbt]))")


@dataclass(frozen=True, slots=True, eq=False)
class Statement:
    """An SQL statement that `Connection` runs.

    Connections look up what they have prepared by the object itself, so each statement is built
    once: as a constant, or by a `StatementTemplate`.

    Attributes:
        name: The name of its spans, such as `sessions.get`. It is chosen, not derived from the
            code, so that traces stay comparable when code moves.
        sql: The text, with parameters as `%(name)s`; `%%` is a percent sign.
        is_prepared: Whether connections prepare it and keep its plan. False where a generic plan
            is bad for most values.
        query: The text as PostgreSQL reads it, with parameters as `$1`.
        parameters: The parameters' names, in the order of their numbers.
        formats: The parameters' formats: `s` for the best one, `b` for binary, `t` for text.
    """

    name: str
    sql: str
    is_prepared: bool = field(default=True, kw_only=True)
    query: bytes = field(init=False)
    parameters: tuple[str, ...] = field(init=False)
    formats: tuple[PyFormat, ...] = field(init=False)

    def __post_init__(self) -> None:
        formats: dict[str, PyFormat] = {}

        def numbered(match: re.Match[str]) -> str:
            if match[0] == "%%":
                return "%"
            formats.setdefault(match[1], PyFormat(match[2]))
            return f"${1 + list(formats).index(match[1])}"

        query = _PARAMETER.sub(numbered, self.sql).encode()
        object.__setattr__(self, "query", query)  # the class is frozen
        object.__setattr__(self, "parameters", tuple(formats))
        object.__setattr__(self, "formats", tuple(formats.values()))


class StatementTemplate:
    """SQL with placeholders in braces, for statements whose text depends on the request.

    Placeholders are filled in with constants of the code, never with a caller's values.

    Attributes:
        name: The name of the statements' spans.
        sql: The text, with parameters as `%(name)s` and placeholders as `{name}`.
    """

    def __init__(self, name: str, sql: str) -> None:
        self.name = name
        self.sql = sql
        self._statements: dict[tuple[object, ...], Statement] = {}

    def fill(self, *, is_prepared: bool = True, **parts: object) -> Statement:
        """Return the statement with these parts; always the same one for the same parts."""
        key = (is_prepared, *parts.items())
        statement = self._statements.get(key)
        if statement is None:
            sql = self.sql.format(**parts)
            statement = Statement(self.name, sql, is_prepared=is_prepared)
            self._statements[key] = statement
        return statement


def set_timeout(seconds: float) -> str:
    """Return the SQL that sets the timeout of the statements of a transaction."""
    return f"SET LOCAL statement_timeout = {milliseconds(seconds)}"
