"""SearchMemory in the mode KEYWORD: what words find, and in which order."""

import pytest

from palaver_server.search.keyword_store import MAX_WORDS
from tests.support.client import Client
from tests.support.searching import found, say, search

GROUP = "I went to a LGBTQ support group yesterday and it was so powerful."


@pytest.fixture
def talk(palaver: Client) -> Client:
    """A client of a server that knows two conversations of a user."""
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


def test_a_question_finds_the_turn_that_answers_it(talk: Client) -> None:
    question = "When did Caroline go to the LGBTQ support group?"

    assert found(talk, question, user_id="u")[0] == GROUP


def test_words_are_alike_in_every_form_and_case(talk: Client) -> None:
    assert found(talk, "CAMPS") == ["We went camping, and the kids had fun."]
    assert found(talk, "inspired story") == ["The stories were inspiring."]


def test_any_of_the_words_will_do_and_more_of_them_are_better(talk: Client) -> None:
    contents = found(talk, "powerful support")

    assert contents == [GROUP, "Groups of friends are the best support."]


def test_a_rare_word_weighs_more_than_a_common_one(palaver: Client) -> None:
    for number in range(10):
        palaver.add(f"s{number}", "the cat sleeps")
    palaver.add("z", "a zebra sleeps")

    assert found(palaver, "cat zebra", limit=1) == ["a zebra sleeps"]


def test_a_word_in_a_short_message_weighs_more_than_in_a_long_one(palaver: Client) -> None:
    long = "pizza and so many other interesting words about almost anything else imaginable"
    palaver.add("long", long)
    palaver.add("short", "pizza tonight")

    assert found(palaver, "pizza") == ["pizza tonight", long]


def test_of_messages_with_a_word_those_near_another_come_first(palaver: Client) -> None:
    say(palaver, "s1", ("user", "my cat sleeps"), ("user", "one"), ("user", "we saw the vet"))
    say(palaver, "s2", ("user", "my dog barks"), ("user", "two"), ("user", "we met the vet"))

    assert set(found(palaver, "dog vet", limit=2)) == {"my dog barks", "we met the vet"}
    near, far = search(palaver, "dog vet").results[1:]
    assert near.score > far.score


def test_neighbours_are_of_one_session(palaver: Client) -> None:
    say(palaver, "s1", ("user", "my dog barks"))
    say(palaver, "s2", ("user", "the vet came"))

    scores = [result.score for result in search(palaver, "dog vet").results]

    assert scores[0] == pytest.approx(scores[1])


def test_no_message_is_found_that_has_none_of_the_words(talk: Client) -> None:
    assert found(talk, "camping") == ["We went camping, and the kids had fun."]
    assert found(talk, "unicorn") == []


def test_a_role_that_the_text_names_counts_as_a_word(talk: Client) -> None:
    """Neither of the two says the name: who says it does."""
    contents = found(talk, "Melanie sunrise camping")

    assert set(contents[:2]) == {
        "I painted a sunrise last year.",
        "We went camping, and the kids had fun.",
    }
    assert set(found(talk, "what did Caroline say of the sunrise")) >= {
        "It looks lovely.",
        "The stories were inspiring.",
    }, "and makes found what stands beside a word"


def test_the_role_alone_finds_nothing(talk: Client) -> None:
    assert found(talk, "Melanie") == []


def test_a_phrase_must_be_there(talk: Client) -> None:
    assert found(talk, '"support group"') == [GROUP]
    assert found(talk, '"group support"') == []
    assert found(talk, '"support group" camping') == [GROUP]


def test_one_of_the_phrases_that_or_joins_must_be_there(talk: Client) -> None:
    assert set(found(talk, '"support group" or "went camping"')) == {
        GROUP,
        "We went camping, and the kids had fun.",
    }
    assert set(found(talk, '"support group" OR camping sunrise')) == {
        GROUP,
        "We went camping, and the kids had fun.",
    }
    assert found(talk, '"support group" "went camping"') == []


def test_what_is_excluded_is_not_found(talk: Client) -> None:
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


def test_what_no_dictionary_splits_is_found_by_what_it_contains(palaver: Client) -> None:
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


def test_words_are_what_signs_and_spaces_leave(palaver: Client) -> None:
    palaver.add("s", *(content for content, _ in SIGNS))

    for content, text in SIGNS:
        assert found(palaver, text) == [content]


def test_the_words_beyond_the_first_32_do_not_count(palaver: Client) -> None:
    palaver.add("s", "inside", "beyond")
    many = " ".join(f"w{number}" for number in range(MAX_WORDS - 1))

    assert found(palaver, f"{many} inside beyond") == ["inside"]


def test_without_text_the_newest_come_first(palaver: Client) -> None:
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


def test_results_tell_the_session_the_message_and_a_snippet(talk: Client) -> None:
    (result,) = search(talk, "camping kids").results

    assert result.session_id == "s2"
    assert result.message.message_id == result.message.content
    assert (result.message.role, result.message.sequence) == ("Melanie", 1)
    assert 0 < result.score < 1
    assert result.snippet == "We went **camping**, and the **kids** had fun."


def test_scores_are_from_0_to_1_and_min_score_leaves_the_better_ones(talk: Client) -> None:
    results = search(talk, "When did Caroline go to the LGBTQ support group?").results
    scores = [result.score for result in results]

    assert len(scores) > 2
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1 for score in scores)
    kept = search(talk, "When did Caroline go to the LGBTQ support group?", min_score=scores[1])
    assert [result.score for result in kept.results] == scores[:2]


def test_diversity_puts_what_is_new_before_what_is_alike(palaver: Client) -> None:
    palaver.add("s1", "my dog likes the park in town")
    palaver.add("s2", "my dog likes the park in town!")
    palaver.add("s3", "the cat chased my dog around a very large and quiet garden yesterday")

    alike = ["my dog likes the park in town", "my dog likes the park in town!"]
    assert set(found(palaver, "dog", limit=2)) == set(alike)
    first, second = found(palaver, "dog", limit=2, diversity=0.5)
    assert first in alike
    assert second not in alike
    assert len(found(palaver, "dog", diversity=1)) == 3


def test_many_matches_are_ranked_by_the_best_of_them(palaver: Client) -> None:
    """More than the 1,000 that are looked at closely."""
    for start in range(0, 1_500, 500):
        palaver.add("s", *(f"dog {number}" for number in range(start, start + 500)))
    palaver.add("t", "dog and zebra")

    assert found(palaver, "dog zebra", limit=1) == ["dog and zebra"]
    assert len(found(palaver, "dog", limit=100)) == 100
