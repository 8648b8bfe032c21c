"""Snippets: the part of a content that shows why it matched."""

from hypothesis import given
from hypothesis import strategies as st

from palaver_server.search.snippet import excerpt, marked_ranges, occurrences, snippet

WORDS = "one two three four five six seven eight nine ten "


def spans(content: str, *words: str) -> list[tuple[int, int]]:
    return list(occurrences(content, words))


def test_snippet_of_short_content_is_whole_on_one_line() -> None:
    assert excerpt("a cat\nand\t a dog ", spans("a cat\nand\t a dog ", "dog")) == (
        "a cat and a **dog**"
    )
    assert excerpt("", []) == ""


def test_snippet_of_long_content_is_densest_part() -> None:
    content = WORDS * 20 + "the cat " + WORDS * 20 + "the dog and the cat " + WORDS * 20

    cut = excerpt(content, spans(content, "cat", "dog"))

    assert "the **dog** and the **cat**" in cut
    assert cut.startswith("…")
    assert cut.endswith("…")
    assert 150 < len(cut) < 220
    assert set(cut.strip("…").replace("*", "").split()) <= set(content.split()), "whole words"


def test_snippet_without_match_is_beginning() -> None:
    cut = excerpt(WORDS * 20, [])

    assert cut.startswith("one two")
    assert cut.endswith("…")
    assert len(cut) <= 201


def test_snippet_overlapping_matches_are_marked_once() -> None:
    assert excerpt("东京都很好", spans("东京都很好", "东京", "京都")) == "**东京都**很好"


def test_snippet_cuts_word_longer_than_itself() -> None:
    content = "a " + "x" * 500
    cut = excerpt(content, [(2, 502)])

    assert cut.count("**") == 2
    assert len(cut) < 220


def test_snippet_mark_positions_ignore_marks() -> None:
    marked = "a <b> c <d><e>".replace("<", "\x02").replace(">", "\x03")

    assert list(marked_ranges(marked)) == [(2, 3), (6, 7), (7, 8)]


def test_snippet_removed_characters_stay_in_place() -> None:
    marked = "xa <bc>, d".replace("<", "\x02").replace(">", "\x03")

    assert snippet("x·a b··c·, ·d", marked, [], "·") == "x·a **b··c·**, ·d"
    assert snippet("xa bc, d·", marked, [], "·") == "xa **bc**, d·"


def test_snippet_with_marks_and_grams_highlights_both() -> None:
    assert snippet("the cat, 东京", "the \x02cat\x03  东京", ["京"]) == "the **cat**, 东**京**"


@given(
    st.text(st.sampled_from("ab \n东"), max_size=600),
    st.lists(st.tuples(st.integers(0, 600), st.integers(1, 300)), max_size=8),
)
def test_snippet_is_part_of_content(content: str, given: list[tuple[int, int]]) -> None:
    inside = [
        (first, min(first + size, len(content))) for first, size in given if first < len(content)
    ]

    cut = excerpt(content, inside)

    plain = "".join(content.split())
    assert "".join(cut.strip("…").replace("**", "").split()) in plain
    assert cut.count("**") % 2 == 0
    assert ("**" in cut) or not [span for span in inside if content[slice(*span)].strip()]
