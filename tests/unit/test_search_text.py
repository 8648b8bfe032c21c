"""The text of a search, parsed like in a search box."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaver_server.search.search_text import MAX_CHARACTERS, SearchText


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", SearchText()),
        ("When did she go?", SearchText("When did she go?")),
        ('"big dog" cat', SearchText("cat", [["big dog"]])),
        ('"a b" "c"', SearchText("", [["a b"], ["c"]])),
        ('"a b" or "c"', SearchText("", [["a b", "c"]])),
        ('"a b" OR c d', SearchText("c d", [["a b", "c"]])),
        ('c or "a b" or d', SearchText("c d", [["c", "a b", "d"]])),
        ("cat or dog", SearchText("cat or dog")),
        ('or "a" or', SearchText("or or", [["a"]])),
        ('cat -dog -"big cat"', SearchText("cat", [], ["dog", "big cat"])),
        ("well-known - fact --force", SearchText("well-known - fact --force")),
        ('"open quote', SearchText("open quote")),
        ('3" pipe', SearchText("3 pipe")),
        ('""', SearchText("", [[""]])),
    ],
)
def test_search_text_is_parsed_like_a_search_box(text: str, expected: SearchText) -> None:
    assert SearchText.parse(text) == expected


@given(st.text(st.sampled_from('ab "-\n') | st.characters(codec="utf-8")))
def test_search_text_of_any_kind_is_parsed(text: str) -> None:
    SearchText.parse(text)


def test_search_text_beyond_limit_is_ignored() -> None:
    assert SearchText.parse("x" * MAX_CHARACTERS + " y").words == "x" * MAX_CHARACTERS
