"""The statements of an SQL script, and a hash that ignores its comments and layout."""

import hashlib
import re
from collections.abc import Iterator

# Backslash escapes (E'…') and nested comments are not understood: migrations use neither.
_TOKEN = re.compile(
    r"""
    (?P<skipped> \s+ | --[^\n]* | /\*.*?\*/ )
    | (?P<opening> BEGIN\s+ATOMIC\b | CASE\b )      # of what ends with END
    | (?P<closing> END\b )
    | (?P<separator> ; )
    | '(?:[^']|'')*' | "(?:[^"]|"")*" | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$
    | \w+ | .
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)


def statements(script: str) -> Iterator[str]:
    """Yield the statements of a script, without the semicolons between them."""
    start, depth, is_empty = 0, 0, True
    for token in _TOKEN.finditer(script):
        depth += bool(token["opening"]) - bool(token["closing"])
        if token["separator"] and not depth:
            if not is_empty:
                yield script[start : token.start()].strip()
            start, is_empty = token.end(), True
        elif not token["skipped"]:
            is_empty = False
    if not is_empty:
        yield script[start:].strip()


def script_hash(script: str) -> str:
    """Return the SHA-256 of a script without its comments and white space between tokens."""
    tokens = (token[0] for token in _TOKEN.finditer(script) if not token["skipped"])
    return hashlib.sha256("\n".join(tokens).encode()).hexdigest()
