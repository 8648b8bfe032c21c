"""SQL/JSON paths that are quick to evaluate, with every method, on values of all kinds.

A path often fails on some of the values: `@@` does not suppress the error of a conversion between
a time with a time zone and one without, nor that of a bad datetime template.
"""

from hypothesis import strategies as st

_TIMES = [
    "2026-01-01", "2026-01-01T10:00:00", "2026-01-01T10:00:00+01:00", "10:00:00", "10:00:00+01:00"
]  # fmt: skip

_OTHERS: list[object] = [
    "1e2", "true", "pro", "", 0, 1, -1.5, 1e300, True, None, [], [1, "2026-01-01"],
    {"a": "2026-01-01T10:00:00Z"}, {"a": [{"a": 1}, {"a": "10:00+02"}]},
]  # fmt: skip

values = st.sampled_from([*_TIMES, *_TIMES, *_OTHERS])

_TO_TIMES = [".date()", ".datetime()", ".time()", ".time_tz()", ".timestamp()", ".timestamp_tz()"]

_METHODS = [
    ".type()", ".size()", ".boolean()", ".string()", ".double()", ".ceiling()", ".floor()",
    ".abs()", ".bigint()", ".decimal()", ".decimal(5, 2)", ".decimal(100000, 0)", ".integer()",
    ".number()", '.datetime("HH24:MI")', '.datetime("XX")', ".time(2)", ".time_tz(0)",
    ".timestamp(1)", ".timestamp_tz(3)", ".keyvalue()", ".keyvalue().value", *_TO_TIMES,
]  # fmt: skip

_MEMBERS = [".a", ".plan", ".*", ".**", "[*].a"]
_STEPS = [*_MEMBERS, ".**{1 to last}", "[*]", "[0]", "[last]", "[0 to 1]"]

_TIME_LITERALS = [
    '"2026-01-01".datetime()', '"2026-01-01".date()', '"2026-01-01T10:00:00".timestamp()',
    '"10:00".time()', '"2026-01-01T10:00:00+01".datetime()',
    '"2026-01-01T10:00:00Z".timestamp_tz()', '"10:00+01".time_tz()',
]  # fmt: skip
_LITERALS = [
    "0", "1", "-1.5", "1e300", "true", "null", '"pro"', '"2026-01-01"', "$.a", "$.plan",
    "$.a.size()", "(1 / 0)", "-$.a", *_TIME_LITERALS,
]  # fmt: skip

_COMPARISONS = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])

_SHAPES = [
    '{} like_regex "^2026"', '{} like_regex "PRO" flag "i"', '{} starts with "20"', "exists({})",
    "({} > 0) is unknown", "!({} == 1)",
]  # fmt: skip


def _accessors(root: str) -> st.SearchStrategy[str]:
    return st.builds(
        lambda steps, methods: root + "".join([*steps, *methods]),
        st.lists(st.sampled_from(_STEPS), min_size=root == "$", max_size=2),
        st.lists(st.sampled_from(_METHODS), max_size=2),
    )


def _time_comparisons(root: str) -> st.SearchStrategy[str]:
    return st.builds(
        lambda member, method, how, time: f"{root}{member}{method} {how} {time}",
        st.sampled_from(["", *_MEMBERS] if root == "@" else _MEMBERS),
        st.sampled_from(_TO_TIMES), _COMPARISONS, st.sampled_from(_TIME_LITERALS),
    )  # fmt: skip


def _predicates(root: str) -> st.SearchStrategy[str]:
    times = _time_comparisons(root)
    comparisons = st.builds(
        lambda path, how, literal: f"{path} {how} {literal}",
        _accessors(root), _COMPARISONS, st.sampled_from(_LITERALS),
    )  # fmt: skip
    others = st.builds(str.format, st.sampled_from(_SHAPES), _accessors(root))
    return st.one_of(times, times, comparisons, others)


_filters = st.builds(
    lambda path, predicate: f"exists({path} ? ({predicate}))", _accessors("$"), _predicates("@")
)

_simple = st.one_of(_predicates("$"), _filters)

_pairs = st.builds(
    lambda left, join, right: f"({left}) {join} ({right})",
    _simple, st.sampled_from(["&&", "||"]), _simple,
)  # fmt: skip

paths = st.builds(
    str.__add__, st.sampled_from(["", "", "strict "]), st.one_of(_simple, _simple, _pairs)
)
