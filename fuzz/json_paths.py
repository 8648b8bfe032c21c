"""SQL/JSON paths: valid ones from their grammar, odd ones, and invalid ones."""

from hypothesis import strategies as st

_STEPS = st.sampled_from(
    [
        ".plan", ".tags.lang", ".a", '."a b"', '."\\u00e9"', ".*", ".**", ".**{2}",
        ".**{1 to last}", ".**{4294967296}", "[*]", "[0]", "[last]", "[last - 1]", "[0 to 2]",
        "[2 to 0]", "[-1]", "[2147483648]", "[1e400]", "[$.a]", ".type()", ".size()", ".double()",
        ".abs()", ".floor()", ".ceiling()", ".keyvalue()", ".keyvalue().value", ".datetime()",
        '.datetime("HH24:MI")', '.datetime("\\u0000")', ".bigint()", ".integer()", ".number()",
        ".boolean()", ".string()", ".date()", ".decimal(5, 2)", ".decimal(1000000, 0)",
        ".decimal(-1)", ".time_tz(7)", ".timestamp(99999999999)", ".timestamp_tz()",
    ]
)  # fmt: skip

_LITERALS = st.sampled_from(
    [
        '"pro"', '"en"', '""', "0", "1", "-1", "0.5", "1e308", "1e400", "1e-400", "9" * 400,
        "1e131072", "0x10", "0b1", "1_000", "null", "true", "false", '"\\u0000"', '"\\ud800"',
        '"\\x00"', '"2026-01-01"', "$.a", "$", "last", "@", "$nobody", '$"nobody"', "1 / 0", "- $",
        "$ % 0", "$.turns * 1e308 * 1e308", "+$.tags", "(1 + 2) - 3",
    ]
)  # fmt: skip

_REGEXES = st.sampled_from(
    [
        "^p", "(a*)*b", "(a|aa)+$", "^(([a-z])+.)+[A-Z]([a-z])+$", "(.*)(.*)(.*)(.*)x\\\\1",
        "(a?){30}a{30}", "a{1,255}{1,255}", "(((a{1,100}){1,100}){1,100})", "a{256}", "[", "(",
        "*", "", "\\\\", "\\\\m", "\\\\y", "[[:alpha:]]", "[[:nobody:]]", "[[.x.]]", "(?=a)",
        "(?!a)b", "(?i)p", "***=p", "***:p", "[b-a]", "\\u0000", "\\ud83d", "😀{2}", "x" * 1000,
    ]
)  # fmt: skip

_FLAGS = st.sampled_from(["i", "s", "m", "x", "q", "iq", "xq", "ismxq", "ii", "z", "", "\\u0000"])

_COMPARISONS = st.sampled_from(["==", "!=", "<>", "<", "<=", ">", ">=", "=", "==="])

_paths = st.builds(
    lambda mode, steps: f"{mode}${''.join(steps)}",
    st.sampled_from(["", "", "", "lax ", "strict ", "STRICT "]),
    st.lists(_STEPS, max_size=4),
)

_comparisons = st.builds(
    lambda path, how, literal: f"{path} {how} {literal}", _paths, _COMPARISONS, _LITERALS
)

_matches = st.builds(
    lambda path, regex, flags: f'{path} like_regex "{regex}" flag "{flags}"',
    _paths, _REGEXES, _FLAGS,
)  # fmt: skip

_others = st.builds(
    lambda shape, path, literal: shape.format(path, literal),
    st.sampled_from(
        [
            "exists({0})", "{0} starts with {1}", "({0} == {1}) is unknown", "!({0} > {1})",
            "{0} ? (@ == {1})", "{0} ? (@ ? (@ > {1}) == 1) == {1}", "{0}", "{1}", "{0} {1}",
            "{0}.**.**.**.** == {1}", "exists({0} ? (@.** ? (@.** == {1}) == {1}))",
        ]
    ),
    _paths, _LITERALS,
)  # fmt: skip

# Nesting levels at which a parser or a matcher may run out of stack.
_levels = st.sampled_from([1, 2, 10, 100, 500, 1000, 2000, 4000])

_deep = st.builds(
    lambda shape, levels: shape(levels),
    st.sampled_from(
        [
            lambda levels: "(" * levels + "$.a == 1" + ")" * levels,
            lambda levels: "!(" * levels + "$.a == 1" + ")" * levels,
            lambda levels: "$" + ".a" * levels + " == 1",
            lambda levels: "$" + ".**" * levels + " == 1",
            lambda levels: "$ " + "? (@" * levels + " == 1" + ")" * levels + " == 1",
            lambda levels: "-" * levels + "1 == 1",
            lambda levels: " && ".join(["$.a == 1"] * levels),
            lambda levels: f'$.a like_regex "{"(" * levels}a{")" * levels}"',
            lambda levels: f'$.a like_regex "{"(a|" * levels}a{")" * levels}"',
        ]
    ),
    _levels,
)

_simple = st.one_of(_comparisons, _matches, _others)

predicates = st.one_of(
    _simple,
    st.builds(
        lambda left, join, right: f"({left}) {join} ({right})",
        _simple, st.sampled_from(["&&", "||", "and"]), _simple,
    ),
)  # fmt: skip

beyond = st.one_of(
    _deep,
    st.text("$@.*[](){}?!&|<>=\"'\\+-%,:01ae \n\t/", max_size=30),
    st.builds(lambda path, cut: path[:cut], predicates, st.integers(0, 40)),
    st.text(max_size=20),
)
