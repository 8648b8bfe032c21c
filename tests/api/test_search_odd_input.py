"""Any content can be written and any text is a legal query; the server answers, whatever it is."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.client import Client
from tests.support.searching import found, search

MIB = 1024 * 1024

contents = st.text(
    st.sampled_from(" ab'\"\\-:*&|!<>()东京กิ😀é\u0301\u2028\x01\x02\x7f")
    | st.characters(codec="utf-8", exclude_characters="\0"),
    max_size=60,
)

any_times = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@any_times
@given(content=contents, text=contents)
def test_any_text_is_a_legal_query(palaver: Client, content: str, text: str) -> None:
    palaver.add("s", content)

    for result in search(palaver, text).results:
        assert 0 < result.score <= 1
        assert result.snippet.strip("…").replace("**", "") in " ".join(
            result.message.content.split()
        )
    search(palaver, content, diversity=0.5)


@any_times
@given(st.text(st.characters(categories=["Lu", "Ll", "Lo", "Nd"]), min_size=1, max_size=30))
def test_a_content_is_found_by_itself(palaver: Client, word: str) -> None:
    """But for what is a common word of the language, which `x` is not."""
    palaver.add("s", f"x{word}")

    assert f"x{word}" in found(palaver, f"x{word}", session_id="s", limit=100)


NOTHING_TO_LOOK_FOR = [
    "...",
    "?!",
    "the",
    "who is it",
    '""',
    "-",
    "-word",
    "😀",
    "' \" \\",
    "|&!:*()",
]


def test_a_text_without_a_word_to_look_for_finds_nothing(palaver: Client) -> None:
    palaver.add("s", "the word?!")

    for text in NOTHING_TO_LOOK_FOR:
        assert found(palaver, text) == [], text


LARGE = {
    "one word": "x" * MIB,
    "different words": " ".join(f"{number:x}" for number in range(150_000)),
    "compounds": " ".join(f"a{number:x}-b{number:x}" for number in range(60_000)),
    "signs": ".-" * (MIB // 2),
    "spaces": " " * MIB,
    "Chinese": "".join(chr(0x4E00 + number * 7919 % 20_000) for number in range(MIB // 3)),
    "rare Chinese": "".join(chr(0x20000 + number * 7919 % 40_000) for number in range(MIB // 4)),
    "what one form makes longer": "\ufdfa" * (MIB // 3),
}


def test_the_largest_contents_can_be_written_found_and_looked_for(
    palaver: Client, subtests: pytest.Subtests
) -> None:
    for kind, large in LARGE.items():
        with subtests.test(kind):
            content = f"beginning {large}".encode()[:MIB].decode(errors="ignore")
            palaver.add(kind, content)

            (result,) = search(palaver, "beginning", session_id=kind).results
            assert result.message.content == content
            assert result.snippet.startswith("**beginning**")
            search(palaver, large)
            search(palaver, f'"{large[:-2]}"')
