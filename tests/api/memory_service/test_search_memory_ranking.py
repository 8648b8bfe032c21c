"""MemoryService.SearchMemory in the mode KEYWORD: which messages match, and in which order."""

import pytest

from palaver_server.search.keyword_store import MAX_TERMS
from tests.support.client import Client
from tests.support.searching import found, say, search

GROUP = "I went to a LGBTQ support group yesterday and it was so powerful."


@pytest.fixture
def talk(palaver: Client) -> Client:
    """A client of a server with two conversations of a user."""
    say(
        palaver,
        "s1",
        ("Melanie", "Hey Caroline! What's up with you?"),
        ("Caroline", GROUP),
        ("Melanie", "Wow, that's cool! What happened that was so awesome?"),
        ("Caroline", "The stories were inspiring."),
        ("Melanie", "I painted a sunrise last year."),
        ("Caroline", "It looks lovely."),
        user_id="u",
    )
    say(
        palaver,
        "s2",
        ("Melanie", "We went camping, and the kids had fun."),
        ("Caroline", "Groups of friends are the best support."),
        user_id="u",
    )
    return palaver


def test_search_memory_question_finds_answering_message(talk: Client) -> None:
    question = "When did Caroline go to the LGBTQ support group?"

    assert found(talk, question, user_id="u")[0] == GROUP


def test_search_memory_word_forms_and_case_match(talk: Client) -> None:
    assert found(talk, "CAMPS") == ["We went camping, and the kids had fun."]
    assert found(talk, "inspired story") == ["The stories were inspiring."]


def test_search_memory_any_word_matches_and_more_words_rank_higher(talk: Client) -> None:
    contents = found(talk, "powerful support")

    assert contents == [GROUP, "Groups of friends are the best support."]


def test_search_memory_rare_word_outranks_common_word(palaver: Client) -> None:
    for number in range(10):
        palaver.add(f"s{number}", "the cat sleeps")
    palaver.add("z", "a zebra sleeps")

    assert found(palaver, "cat zebra", limit=1) == ["a zebra sleeps"]


def test_search_memory_short_message_outranks_long_message(palaver: Client) -> None:
    long = "pizza and so many other interesting words about almost anything else imaginable"
    palaver.add("long", long)
    palaver.add("short", "pizza tonight")

    assert found(palaver, "pizza") == ["pizza tonight", long]


def test_search_memory_neighbours_of_matches_rank_higher(palaver: Client) -> None:
    say(palaver, "s1", ("user", "my cat sleeps"), ("user", "one"), ("user", "we saw the vet"))
    say(palaver, "s2", ("user", "my dog barks"), ("user", "two"), ("user", "we met the vet"))

    assert set(found(palaver, "dog vet", limit=2)) == {"my dog barks", "we met the vet"}
    near, far = search(palaver, "dog vet").results[1:]
    assert near.score > far.score


def test_search_memory_neighbours_are_of_the_same_session(palaver: Client) -> None:
    say(palaver, "s1", ("user", "my dog barks"))
    say(palaver, "s2", ("user", "the vet came"))

    scores = [result.score for result in search(palaver, "dog vet").results]

    assert scores[0] == pytest.approx(scores[1])


def test_search_memory_message_without_any_word_is_not_found(talk: Client) -> None:
    assert found(talk, "camping") == ["We went camping, and the kids had fun."]
    assert found(talk, "unicorn") == []


def test_search_memory_role_named_in_text_counts_as_word(talk: Client) -> None:
    """No content holds the name; only the role does."""
    contents = found(talk, "Melanie sunrise camping")

    assert set(contents[:2]) == {
        "I painted a sunrise last year.",
        "We went camping, and the kids had fun.",
    }
    assert set(found(talk, "what did Caroline say of the sunrise")) >= {
        "It looks lovely.",
        "The stories were inspiring.",
    }, "the neighbour of a match is found"


def test_search_memory_role_alone_finds_nothing(talk: Client) -> None:
    assert found(talk, "Melanie") == []


def test_search_memory_role_is_found_next_to_another_word_only(palaver: Client) -> None:
    say(palaver, "s", ("guide", "a guide explains"), ("guide", "it is late"))

    assert found(palaver, "guide") == ["a guide explains"]
    assert set(found(palaver, "guide explains")) == {"a guide explains", "it is late"}


def test_search_memory_phrase_must_occur(talk: Client) -> None:
    assert found(talk, '"support group"') == [GROUP]
    assert found(talk, '"group support"') == []
    assert found(talk, '"support group" camping') == [GROUP]


def test_search_memory_one_of_phrases_joined_by_or_must_occur(talk: Client) -> None:
    assert set(found(talk, '"support group" or "went camping"')) == {
        GROUP,
        "We went camping, and the kids had fun.",
    }
    assert set(found(talk, '"support group" OR camping sunrise')) == {
        GROUP,
        "We went camping, and the kids had fun.",
    }
    assert found(talk, '"support group" "went camping"') == []


def test_search_memory_excluded_words_are_not_found(talk: Client) -> None:
    assert found(talk, "support -powerful") == ["Groups of friends are the best support."]
    assert found(talk, 'support -"support group"') == ["Groups of friends are the best support."]
    assert found(talk, "-support") == []
    assert found(talk, "support-powerful")[0] == GROUP, "a hyphen in a word excludes nothing"


UNSPACED = [
    "我喜欢吃苹果。",
    "东京都的天气很好",
    "ฉันชอบกินข้าว",
    "昨日、東京タワーに行きました",
    "학교에서 공부했다",
]

CONTAINED = [
    ("苹果", UNSPACED[0]),
    ("果", UNSPACED[0]),
    ("喜欢苹果吗", UNSPACED[0]),
    ("东京", UNSPACED[1]),
    ('"京都的天气"', UNSPACED[1]),
    ("กินข้าว", UNSPACED[2]),
    ("タワー", UNSPACED[3]),
    ("ﾀﾜｰ", UNSPACED[3]),
    ("학교", UNSPACED[4]),
    ("공부", UNSPACED[4]),
]


def test_search_memory_unspaced_script_is_found_by_substring(palaver: Client) -> None:
    palaver.add("s", *UNSPACED)

    for text, content in CONTAINED:
        assert found(palaver, text)[0] == content, text
        assert found(palaver, text, session_id="s")[0] == content, text
    assert found(palaver, "香蕉") == []
    assert found(palaver, '"天气的京都"') == []


SIGNS = [
    ("“Hello” she said", "hello"),
    ("that was great😀really", "great"),
    ("red/blue", "blue"),
    ("It is done.Next", "next"),
    ("see http://example.org/path?x=tree", "tree"),
    ("write to ada@example.org", "ada"),
    ("snake_case", "snake"),
    ("well-known", "known"),
    ("<b>bold</b>", "bold"),
    ("don\u2019t panic—ever", "ever"),
    ("\uff57\uff49\uff44\uff45\u3000awake", "wide"),
    ("cafe\u0301 au lait", "caf\u00e9"),
    ("ПРИВЕТ мир", "привет"),
    ("it costs 3.50", "3.50"),
]


def test_search_memory_punctuation_and_spaces_separate_words(palaver: Client) -> None:
    palaver.add("s", *(content for content, _ in SIGNS))

    for content, text in SIGNS:
        assert found(palaver, text) == [content]


def test_search_memory_capital_and_small_letters_match_in_every_script(palaver: Client) -> None:
    palaver.add(
        "s", "ÄRGER in GÖTEBORG", "Żółw i ŁÓDŹ", "ΚΑΛΗΜΕΡΑ Ἀθῆναι", "ПРИВЕТ, Мир",
        "THE INDEX IS IN I", "İSTANBUL'da",
    )  # fmt: skip

    for text, snippet in {
        "göteborg": "ÄRGER in **GÖTEBORG**",
        "łódź": "Żółw i **ŁÓDŹ**",
        "καλημερα": "**ΚΑΛΗΜΕΡΑ** Ἀθῆναι",
        "мир ПРИВЕТ": "**ПРИВЕТ**, **Мир**",
        "index": "THE **INDEX** IS IN I",
        "istanbul": "**İSTANBUL**'da",
        '"Istanbul DA"': "**İSTANBUL**'**da**",
    }.items():
        assert [result.snippet for result in search(palaver, text).results] == [snippet]


def test_search_memory_marks_do_not_split_words(palaver: Client) -> None:
    palaver.add("s", "मैं हिन्दी बोलता हूँ।", "दी गई किताब", "سلام، دنیا؟")

    for text, snippet in {
        "हिन्दी": "मैं **हिन्दी** बोलता हूँ।",
        "दी": "**दी** गई किताब",
        "سلام": "**سلام**، دنیا؟",
    }.items():
        assert [result.snippet for result in search(palaver, text).results] == [snippet]


def test_search_memory_words_after_the_first_32_are_ignored(palaver: Client) -> None:
    palaver.add("s", "inside", "beyond")
    many = " ".join(f"w{number}" for number in range(MAX_TERMS - 1))

    assert found(palaver, f"{many} inside beyond") == ["inside"]


def test_search_memory_without_text_newest_come_first(palaver: Client) -> None:
    palaver.add("s", "first")
    palaver.add("s", "second")
    palaver.add("t", "third")

    for blank in ("", " \n"):
        response = search(palaver, blank)
        assert [result.message.content for result in response.results] == [
            "third", "second", "first",
        ]  # fmt: skip
        assert {result.score for result in response.results} == {1}
        assert response.mode == 0
    assert found(palaver, limit=1) == ["third"]


def test_search_memory_results_hold_session_message_and_snippet(talk: Client) -> None:
    (result,) = search(talk, "camping kids").results

    assert result.session_id == "s2"
    assert result.message.message_id == result.message.content
    assert (result.message.role, result.message.sequence) == ("Melanie", 1)
    assert 0 < result.score < 1
    assert result.snippet == "We went **camping**, and the **kids** had fun."


def test_search_memory_scores_are_0_to_1_and_min_score_filters(talk: Client) -> None:
    results = search(talk, "When did Caroline go to the LGBTQ support group?").results
    scores = [result.score for result in results]

    assert len(scores) > 2
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1 for score in scores)
    kept = search(talk, "When did Caroline go to the LGBTQ support group?", min_score=scores[1])
    assert [result.score for result in kept.results] == scores[:2]


def test_search_memory_diversity_ranks_new_before_similar(palaver: Client) -> None:
    palaver.add("s1", "my dog likes the park in town")
    palaver.add("s2", "my dog likes the park in town!")
    palaver.add("s3", "the cat chased my dog around a very large and quiet garden yesterday")

    alike = ["my dog likes the park in town", "my dog likes the park in town!"]
    assert set(found(palaver, "dog", limit=2)) == set(alike)
    first, second = found(palaver, "dog", limit=2, diversity=0.5)
    assert first in alike
    assert second not in alike
    assert len(found(palaver, "dog", diversity=1)) == 3


def test_search_memory_over_1000_matches_are_ranked_by_the_best(palaver: Client) -> None:
    """More messages match than the 1,000 that are ranked."""
    for start in range(0, 1_500, 500):
        palaver.add("s", *(f"dog {number}" for number in range(start, start + 500)))
    palaver.add("t", "dog and zebra")

    assert found(palaver, "dog zebra", limit=1) == ["dog and zebra"]
    assert len(found(palaver, "dog", limit=100)) == 100
