"""Values of single fields: usual ones, and odd ones that may break a server.

Strings are bytes here, since a caller may send strings that are not UTF-8.
"""

from google.protobuf.descriptor import FieldDescriptor
from hypothesis import strategies as st

from fuzz import json_paths
from fuzz.chance import chance
from palaver_server.bootstrap.services import SERVICES

# Few ids, so that requests meet the rows of other requests.
SESSION_IDS = [f"s{number}" for number in range(8)]
USER_IDS = [f"u{number}" for number in range(4)]
MESSAGE_IDS = [f"m{number}" for number in range(12)]

_WORDS = st.sampled_from(
    [
        "rain", "Lagos", "november", "the", "or", "OR", "and", "-rain", '"', '""', '"the rain"',
        '-"in Lagos"', '"rain', "-", "--", "&", "|", "!", "<->", "<3>", "(", ")", ":*", ":A", "'",
        "\\", "%", "_", "*", "$1", "%s", "😀", "e\u0301", "\u0130", "\u202e", "\ufeff", "\x01",
        "http://a.b/c?d=e", "a@b.c", "-1.5e3", "/usr/bin", "<b>rain</b>", "rain" * 600, "東京",
    ]
)  # fmt: skip

_phrases = st.lists(_WORDS, max_size=8).map(" ".join)

_SIZES = [64, 65, 256, 257, 320, 321, 1024, 1025, 4096, 4097, 65_536, 2**20, 2**20 + 1]

_odd_texts = st.one_of(
    st.sampled_from(
        ["", "\0", "a\0", " ", "\n", "\ufffe\uffff", "\U0010ffff", "'; DROP TABLE sessions; --"]
    ),
    st.builds(str.__mul__, st.sampled_from("xé😀 \n\x01"), st.sampled_from(_SIZES)),
    st.text(max_size=12),
    _phrases,
)

# Bytes that UTF-8 does not use, halves of surrogate pairs, and overlong encodings.
_no_utf8 = st.sampled_from(
    [b"\xff", b"a\x80", b"\xc0\x80", b"\xed\xa0\x80", b"\xed\xa0\xbd\xed\xb8\x80", b"\xf4\x90\x80"]
)


def _encoded(texts: st.SearchStrategy[str]) -> st.SearchStrategy[bytes]:
    return texts.map(str.encode)


_USUAL_STRINGS = {
    "session_id": st.sampled_from(SESSION_IDS),
    "user_id": st.sampled_from(USER_IDS),
    "message_id": st.sampled_from(MESSAGE_IDS),
    "message_ids": st.sampled_from(MESSAGE_IDS),
    "role": st.sampled_from(["user", "assistant"]),
    "roles": st.sampled_from(["user", "assistant"]),
    "payload_type": st.sampled_from(["", "image/png"]),
    "email": st.sampled_from(["", "ada@example.com"]),
    "first_name": st.sampled_from(["", "Ada", "Ngũgĩ"]),
    "last_name": st.sampled_from(["", "Lovelace", "wa Thiong'o"]),
    "metadata": json_paths.predicates,
    "key": st.sampled_from(["plan", "turns", "tags", "a", ""]),
    "service": st.sampled_from(["", *SERVICES]),
    "file_by_filename": st.sampled_from(["palaver/v1/session.proto", "nobody.proto"]),
    "file_containing_symbol": st.sampled_from([*SERVICES, "palaver.v1.Session", "nobody"]),
    "containing_type": st.sampled_from(["palaver.v1.Session", "google.protobuf.MessageOptions"]),
}

_ODD_STRINGS = {"metadata": json_paths.beyond}


def usual_strings(field: FieldDescriptor) -> st.SearchStrategy[bytes]:
    """Return texts that a caller might send in a field, by its name."""
    return _encoded(_USUAL_STRINGS.get(field.name, _phrases))


def odd_strings(field: FieldDescriptor) -> st.SearchStrategy[bytes]:
    """Return texts that may break a server, and bytes that are not text."""
    texts = st.one_of(_odd_texts, _ODD_STRINGS.get(field.name, _odd_texts))
    return chance(10, _no_utf8, _encoded(texts))


_USUAL_INTEGERS = {
    "seconds": st.integers(0, 2_000_000_000),
    "nanos": st.integers(0, 999_999_999),
    "last_n": st.sampled_from([0, 0, 1, 3]),
    "cursor": st.sampled_from([0, 0, 0, 1, 5, 40]),
}

# The limits of the types, of the contract, and of the times of PostgreSQL and Python.
_EDGES = [
    limit + step
    for limit in (
        0, 1000, 2**31, 2**32, 2**53, 2**63, 1_000_000_000, -(2**31), -(2**63),
        -62_135_596_800, 253_402_300_800, 315_576_000_000, -210_866_803_200, 9_224_318_016_000,
    )
    for step in (-1, 0, 1)
]  # fmt: skip


def usual_integers(field: FieldDescriptor) -> st.SearchStrategy[int]:
    """Return numbers that a caller might send in a field, by its name."""
    return _USUAL_INTEGERS.get(field.name, st.integers(0, 20))


odd_integers = st.one_of(st.sampled_from(_EDGES), st.integers(-(2**63), 2**64 - 1))

usual_doubles = st.floats(0, 1)

odd_doubles = st.one_of(
    st.sampled_from([float("nan"), float("inf"), float("-inf"), -0.0, 5e-324, 1.7e308, 2.0**53]),
    st.floats(),
)
