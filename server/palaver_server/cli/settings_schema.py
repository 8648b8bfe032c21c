"""The values that a setting accepts, in words: for `--help`, error messages and the docs."""

from functools import cache
from typing import Any, NamedTuple

from palaver_server.config import Settings

# By the type of a value in JSON Schema, or its format if it has one.
_METAVARS = {
    "boolean": "BOOLEAN",
    "file-path": "PATH",
    "integer": "INTEGER",
    "number": "FLOAT",
    "path": "PATH",
}
_NOUNS = {
    "boolean": "true or false",
    "file-path": "an existing file",
    "integer": "an integer",
    "number": "a number",
    "path": "a directory",
}

# Larger bounds only keep values representable.
_MAX_SHOWN = 10**9


class Values(NamedTuple):
    """The values that a setting accepts.

    Attributes:
        metavar: The placeholder of the value in `--help`.
        kind: The kind of value, such as "an integer".
        bounds: The bounds of the value, such as "1 to 1000"; empty if there are none.
        is_secret: Whether the value must not be shown.
    """

    metavar: str
    kind: str
    bounds: str = ""
    is_secret: bool = False

    def __str__(self) -> str:
        """Return the kind with its bounds."""
        return f"{self.kind}, {self.bounds}" if self.bounds else self.kind


def accepted_values(name: str) -> Values:
    """Return the values that a setting accepts."""
    schema = _properties()[name]
    (schema,) = [each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"]
    if choices := schema.get("enum"):
        return Values(f"[{'|'.join(choices)}]", f"one of {', '.join(choices)}")
    type_ = schema.get("format", schema["type"])
    kind = "a number of seconds" if name.endswith("_seconds") else _NOUNS.get(type_, "text")
    is_secret = schema.get("writeOnly", False)
    return Values(_METAVARS.get(type_, "TEXT"), kind, _bounds(schema), is_secret=is_secret)


@cache
def _properties() -> dict[str, Any]:
    properties: dict[str, Any] = Settings.model_json_schema()["properties"]
    return properties


def _bounds(schema: dict[str, Any]) -> str:
    if longest := schema.get("maxLength"):
        return f"{schema['minLength']} to {longest} characters"
    if shortest := schema.get("minLength"):
        return f"{shortest} or more characters"
    low, above, high = (schema.get(key) for key in ("minimum", "exclusiveMinimum", "maximum"))
    if above is not None and schema["type"] == "integer":
        low = above + 1
    if high is not None and high > _MAX_SHOWN:
        high = None
    if low is not None and high is not None:
        return f"{low} to {high}"
    if low is not None:
        return f"{low} or more"
    return "" if above is None else f"more than {above}"
