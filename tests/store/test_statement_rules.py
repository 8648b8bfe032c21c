"""Rules for SQL that keep statements runnable on a cluster that places schemas on nodes (Citus)."""

import importlib
import pkgutil
import re
from collections.abc import Iterator

import pytest

import palaver_server
from palaver_server.database.statement import Statement, StatementTemplate
from tests.support.concurrency import Connection

_IS_SQL = re.compile(r"\s*(WITH|SELECT|INSERT|UPDATE|DELETE|,|known AS|EXISTS)\b")

# PostgreSQL's grammar has these, and no function of that name.
_CONSTRUCTS = {"greatest", "least", "coalesce", "nullif", "in", "and", "or", "when"}

_ASSIGNMENTS = re.compile(r"\b(?P<upsert>DO\s+)?UPDATE\b(?:\s+\w+){0,3}?\s+SET\b", re.IGNORECASE)
_END = re.compile(r"FROM\b|WHERE\b|RETURNING\b", re.IGNORECASE)
_END_OF_UPSERT = re.compile(r"RETURNING\b", re.IGNORECASE)

_VOLATILITY = """
    SELECT proname, provolatile::text FROM pg_proc WHERE proname = ANY(%s)
"""


def texts() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each constant that is, or is a part of, a statement."""
    for module in pkgutil.walk_packages(palaver_server.__path__, "palaver_server."):
        if module.name.endswith("__main__"):
            continue
        names = vars(importlib.import_module(module.name))
        classes = [value for value in names.values() if isinstance(value, type)]
        for owner in (names, *(vars(each) for each in classes if each.__module__ == module.name)):
            for name, value in owner.items():
                text = value.sql if isinstance(value, Statement | StatementTemplate) else value
                if isinstance(text, str) and _IS_SQL.match(text):
                    yield f"{module.name}.{name}", text


TEXTS = dict(texts())


def assignments(text: str) -> Iterator[tuple[bool, str]]:
    """Yield the assignments of each UPDATE, and whether it is that of an upsert.

    Those of an upsert include its condition, for which the same rules hold.
    """
    for match in _ASSIGNMENTS.finditer(text):
        is_end = (_END_OF_UPSERT if match["upsert"] else _END).match
        depth, end = 0, match.end()
        while end < len(text) and depth >= 0 and not (depth == 0 and is_end(text, end)):
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        yield bool(match["upsert"]), text[match.end() : end]


def called(text: str) -> set[str]:
    """Return the names of the functions that an expression calls."""
    return set(re.findall(r"\b([a-z_]\w*)\s*\(", text)) - _CONSTRUCTS


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("UPDATE t SET a = f(1), b = 2 WHERE c", [(False, " a = f(1), b = 2 ")]),
        (
            "UPDATE t AS x SET a = extract(epoch FROM b) FROM c",
            [(False, " a = extract(epoch FROM b) ")],
        ),
        ("(UPDATE t x SET a = 1), b", [(False, " a = 1)")]),
        (
            "ON CONFLICT (a) DO UPDATE SET b = (SELECT 1) WHERE c\n RETURNING",
            [(True, " b = (SELECT 1) WHERE c\n ")],
        ),
        ("SET LOCAL a = 1", []),
        ("SELECT 1 FROM t FOR UPDATE", []),
    ],
)
def test_assignments_are_found(text: str, found: list[tuple[bool, str]]) -> None:
    assert list(assignments(text)) == found


def test_statements_of_all_layers_are_found() -> None:
    layers = {name.split(".")[1] for name in TEXTS}
    assigning = {name.rpartition(".")[2] for name, text in TEXTS.items() if [*assignments(text)]}

    assert {"store", "search", "embedding", "purge", "database", "transport"} <= layers
    assert {"ADD_MEMORY", "ENSURED", "TAKE_LEASE", "_RECORD_HASH", "STORE"} <= assigning


def test_statements_have_no_empty_target_list() -> None:
    empty = [name for name, text in TEXTS.items() if re.search(r"\bSELECT\s+FROM\b", text)]

    assert not empty


def test_statements_assign_no_subqueries() -> None:
    found = [
        name
        for name, text in TEXTS.items()
        for _, assigned in assignments(text)
        if re.search(r"\bSELECT\b|\bDEFAULT\b", assigned)
    ]

    assert not found


def test_statements_assign_no_results_of_volatile_functions(database: Connection) -> None:
    functions = {
        (function, is_upsert, name)
        for name, text in TEXTS.items()
        for is_upsert, assigned in assignments(text)
        for function in called(assigned)
    }
    rows = database.execute(_VOLATILITY, [[function for function, *_ in functions]]).fetchall()
    kinds = {function: {kind for name, kind in rows if name == function} for function, _ in rows}

    assert {"statement_timestamp", "search_words"} <= kinds.keys()
    assert {function for function, *_ in functions} == kinds.keys()
    assert not [each for each in functions if "v" in kinds[each[0]]]
    assert not [each for each in functions if each[1] and kinds[each[0]] != {"i"}]
