"""Searches amid deletes and changes: deleted is never found, not a moment after."""

from functools import partial
from itertools import count

from palaver.v1.memory_service_pb2 import (
    DeleteMemoryRequest,
    DeleteMessagesRequest,
    SearchMemoryRequest,
    UpdateMessageRequest,
)
from palaver_server.database.pool import Pool
from palaver_server.search.keyword_store import WordStore
from palaver_server.search.result_store import FoundStore
from tests.conftest import Run, StartServer
from tests.support.client import Client, wait_until
from tests.support.concurrency import Connection, at_once, begin, crowd, wait_until_blocked
from tests.support.endpoint import Endpoint
from tests.support.searching import found, say, search
from tests.support.vectors import embed, of_user

MODES = (SearchMemoryRequest.KEYWORD, SearchMemoryRequest.SEMANTIC, SearchMemoryRequest.HYBRID)


def test_what_is_deleted_between_the_finding_and_the_reading_is_not_given(
    palaver: Client, pool: Pool, run: Run
) -> None:
    say(palaver, "s", ("user", "kept word"), ("user", "deleted word"))
    words, messages = WordStore(pool), FoundStore(pool)
    query = run(words.read_text("word"))
    keys = [hit.key for hit in run(words.match(query, limit=10))]
    assert len(keys) == 2

    palaver.memory.DeleteMessages(
        DeleteMessagesRequest(session_id="s", message_ids=["deleted word"])
    )

    (read,) = run(messages.get_messages(keys, query=query.match))
    assert read.message.content == "kept word"


def test_a_search_that_waited_for_a_delete_does_not_find_what_it_deleted(
    palaver: Client, database: Connection
) -> None:
    say(palaver, "s", ("user", "kept word"), ("user", "deleted word"))

    for text in ("word", ""):
        with database.transaction():
            database.execute("LOCK TABLE messages")
            call = begin(partial(found, palaver, text))
            wait_until_blocked(database)
            database.execute("UPDATE messages SET deleted_at = now() WHERE sequence = 2")
        assert call.result(20) == ["kept word"]
        database.execute("UPDATE messages SET deleted_at = NULL")


def test_every_writer_sees_its_own_writes_in_its_searches_and_no_deleted_ones(
    start_server: StartServer, endpoint: Endpoint
) -> None:
    server = start_server(**endpoint.settings)

    def live(client: Client, number: int) -> None:
        session_id, word = f"s{number}", f"word{number}"
        for turn in range(4):
            say(client, session_id, ("user", f"{word} old"), ("user", f"{word} other"))
            assert set(found(client, word)) == {f"{word} old", f"{word} other"}
            client.memory.UpdateMessage(
                UpdateMessageRequest(
                    session_id=session_id, message_id=f"{word} old", content=f"{word} new"
                )
            )
            assert set(found(client, word)) == {f"{word} new", f"{word} other"}
            if turn % 2:
                request = DeleteMessagesRequest(session_id=session_id, last_n=2)
                client.memory.DeleteMessages(request)
            else:
                client.memory.DeleteMemory(DeleteMemoryRequest(session_id=session_id))
            for mode in MODES:
                contents = found(client, f"{word} old new other", mode=mode, limit=100)
                assert not [content for content in contents if content.startswith(f"{word} ")]

    with crowd([server], 6) as clients:
        at_once(
            [partial(live, client, number) for number, client in enumerate(clients)]
        ).all_succeeded()


def alike(word: str, text: str) -> bool:
    pairs = zip(embed(of_user(word)), embed(text), strict=True)
    return sum(one * other for one, other in pairs) > 0.3


def test_what_both_find_is_found_once_and_what_one_finds_is_found(
    start_server: StartServer, endpoint: Endpoint
) -> None:
    palaver = start_server(**endpoint.settings)
    # Texts that the endpoint takes for alike, though they share no word.
    akin = next(
        word
        for word in map("word{}".format, count())
        if all(alike(word, text) for text in ("tree house", '"tree house"'))
    )
    say(palaver, "s", ("user", "tree house"), ("user", akin))
    semantic = partial(found, palaver, "tree house", mode=SearchMemoryRequest.SEMANTIC)
    hybrid = partial(found, palaver, mode=SearchMemoryRequest.HYBRID)
    wait_until(lambda: set(semantic()) == {"tree house", akin})

    assert found(palaver, "tree house") == ["tree house"]
    assert hybrid("tree house") == ["tree house", akin]
    assert hybrid('"tree house"') == ["tree house"]
    assert hybrid("tree house", min_score=0.4) == ["tree house"]

    response = search(palaver, "tree", mode=SearchMemoryRequest.MODE_UNSPECIFIED)
    assert response.mode == SearchMemoryRequest.HYBRID
