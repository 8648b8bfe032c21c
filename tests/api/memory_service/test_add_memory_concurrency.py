"""MemoryService.AddMemory among other calls: races, and waits for other transactions."""

from collections.abc import Callable
from functools import partial

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    AddMemoryResponse,
    DeleteMessagesRequest,
    ListMessagesRequest,
    UpdateMessageRequest,
)
from tests.conftest import StartServer
from tests.support.client import Client, refused, struct, wait_until
from tests.support.concurrency import (
    MAX_WAIT_SECONDS,
    Connection,
    Outcomes,
    at_once,
    begin,
    count_blocked,
    unless_refused,
    wait_until_blocked,
)
from tests.support.rival import ADD_MESSAGE, DELETE_EVERYTHING, LOCK_SESSION, PURGE_EVERYTHING

# --- Concurrency -------------------------------------------------------------------------------


def stored(client: Client) -> list[tuple[int, str, str]]:
    request = ListMessagesRequest(session_id="s")
    messages = client.memory.ListMessages(request).messages
    return [(m.sequence, m.message_id, m.content) for m in messages]


def test_add_memory_ids_added_during_lock_wait_keep_their_sequences(
    palaver: Client, rival: Connection, database: Connection
) -> None:
    palaver.add_ids("s", "first")
    rival.execute(ADD_MESSAGE, ["a"])
    call = begin(lambda: palaver.add_ids("s", "b", "a", "c"))
    wait_until_blocked(database)

    rival.commit()

    assert [m.sequence for m in call.result(MAX_WAIT_SECONDS).messages] == [3, 2, 4]
    assert stored(palaver) == [
        (1, "first", "new"),
        (2, "a", "new"),
        (3, "b", "new"),
        (4, "c", "new"),
    ]
    assert palaver.get_session("s").last_sequence == 4


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_add_memory_wait_for_first_write_reports_session_created(
    palaver: Client, rival: Connection, database: Connection, end: str
) -> None:
    rival.execute(ADD_MESSAGE, ["a"])
    call = begin(lambda: palaver.add_ids("s", "a", "b"))
    wait_until_blocked(database)

    getattr(rival, end)()

    response = call.result(MAX_WAIT_SECONDS)
    assert response.session_created is (end == "rollback")
    assert [message.sequence for message in response.messages] == [1, 2]
    assert stored(palaver) == [(1, "a", "new"), (2, "b", "new")]
    assert palaver.get_session("s").last_sequence == 2


def test_add_memory_id_deleted_during_lock_wait_appends_new_message(
    palaver: Client, rival: Connection, database: Connection
) -> None:
    palaver.add_ids("s", "a", "b")
    rival.execute("UPDATE sessions SET updated_at = now()")
    rival.execute("UPDATE messages SET deleted_at = now() WHERE message_id = 'a'")
    call = begin(lambda: palaver.add_ids("s", "a", "b"))
    wait_until_blocked(database)

    rival.commit()

    assert [message.sequence for message in call.result(MAX_WAIT_SECONDS).messages] == [3, 2]
    assert stored(palaver) == [(2, "b", "new"), (3, "a", "new")]


WAYS: dict[str, Callable[[Client], AddMemoryResponse]] = {
    "without ids": lambda client: client.add("s", "new", user_id="another"),
    "with ids": lambda client: client.add_ids("s", "a"),
}


@pytest.mark.parametrize("way", WAYS)
def test_add_memory_wait_for_delete_restores_session(
    palaver: Client, rival: Connection, database: Connection, way: str
) -> None:
    palaver.add_session("s", metadata=struct(kept=True))
    before = palaver.get_session("s")
    palaver.add_ids("s", "a", "b")
    rival.execute(DELETE_EVERYTHING)
    call = begin(lambda: WAYS[way](palaver))
    wait_until_blocked(database)

    rival.commit()

    response = call.result(MAX_WAIT_SECONDS)
    assert (response.session_created, response.session_undeleted) == (False, True)
    assert [sequence for sequence, _, _ in stored(palaver)] == [3]
    session = palaver.get_session("s")
    assert (session.id, session.metadata, session.user_id) == (before.id, before.metadata, "")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_add_memory_wait_for_purge_reports_created_or_restored(
    palaver: Client, rival: Connection, database: Connection, way: str, end: str
) -> None:
    palaver.add_ids("s", "a", "b")
    palaver.delete_session("s")
    rival.execute(PURGE_EVERYTHING)
    call = begin(lambda: WAYS[way](palaver))
    wait_until_blocked(database)

    getattr(rival, end)()

    response = call.result(MAX_WAIT_SECONDS)
    purged = end == "commit"
    assert (response.session_created, response.session_undeleted) == (purged, not purged)
    assert [sequence for sequence, _, _ in stored(palaver)] == [1 if purged else 3]
    assert palaver.get_session("s").last_sequence == (1 if purged else 3)


@pytest.mark.parametrize(("expected", "holds"), [(1, False), (2, True)])
def test_add_memory_expected_last_sequence_is_compared_after_lock_wait(
    palaver: Client, rival: Connection, database: Connection, expected: int, holds: object
) -> None:
    palaver.add_ids("s", "a")
    rival.execute(ADD_MESSAGE, ["b"])
    call = begin(lambda: palaver.add_ids("s", "c", expected_last_sequence=expected))
    wait_until_blocked(database)

    rival.commit()

    if holds:
        assert call.result(MAX_WAIT_SECONDS).messages[0].sequence == 3
        return
    with refused(grpc.StatusCode.ABORTED) as refusal:
        call.result(MAX_WAIT_SECONDS)
    assert refusal.detail(ErrorInfo).metadata["last_sequence"] == "2"
    assert [message_id for _, message_id, _ in stored(palaver)] == ["a", "b"]
    assert palaver.get_session("s").last_sequence == 2


@pytest.mark.parametrize("callers", [1, 2], ids=["one server", "two servers"], indirect=True)
def test_add_memory_simultaneous_batches_are_contiguous_without_gaps(callers: list[Client]) -> None:
    def add_batches(number: int) -> list[list[tuple[str, int]]]:
        acknowledged = []
        for batch in range(3):
            contents = [f"{number}/{batch}/{index}" for index in range(1 + (number + batch) % 5)]
            # Every other caller sets ids: both statements run on one session.
            messages = [
                Message(role="user", content=content, message_id=content if number % 2 else "")
                for content in contents
            ]
            response = callers[number].add_memory("s", messages)
            sequences = [message.sequence for message in response.messages]
            acknowledged.append(list(zip(contents, sequences, strict=True)))
        return acknowledged

    outcomes = at_once([partial(add_batches, number) for number in range(len(callers))])

    batches = [batch for caller in outcomes.all_succeeded() for batch in caller]
    for batch in batches:
        first = batch[0][1]
        assert [sequence for _, sequence in batch] == list(range(first, first + len(batch)))
    acknowledged = sorted((sequence, content) for batch in batches for content, sequence in batch)
    assert [sequence for sequence, _ in acknowledged] == list(range(1, len(acknowledged) + 1))
    assert [(m.sequence, m.content) for m in callers[0].messages("s")] == acknowledged
    assert callers[0].get_session("s").last_sequence == len(acknowledged)


ROUNDS = 2


def add_from_everybody(
    callers: list[Client], session_id: str, *, way: str
) -> Outcomes[AddMemoryResponse]:
    """Let each caller add a message of its own."""
    calls: list[Callable[[], AddMemoryResponse]] = [
        partial(caller.add_ids, session_id, f"of caller {number}")
        if way == "with ids"
        else partial(caller.add, session_id, f"of caller {number}")
        for number, caller in enumerate(callers)
    ]
    return at_once(calls)


@pytest.mark.parametrize("way", ["without ids", "with ids"])
def test_add_memory_simultaneous_first_writes_report_one_creation(
    callers: list[Client], way: str
) -> None:
    for number in range(ROUNDS):
        outcomes = add_from_everybody(callers, f"s{number}", way=way)

        responses = outcomes.all_succeeded()
        assert sum(response.session_created for response in responses) == 1
        assert not any(response.session_undeleted for response in responses)
        sequences = sorted(response.messages[0].sequence for response in responses)
        assert sequences == list(range(1, len(callers) + 1))


@pytest.mark.parametrize("way", ["without ids", "with ids"])
def test_add_memory_simultaneous_writes_to_deleted_session_report_one_restore(
    callers: list[Client], way: str
) -> None:
    for number in range(ROUNDS):
        session_id = f"s{number}"
        add_from_everybody(callers, session_id, way=way).all_succeeded()
        before = callers[0].get_session(session_id)
        callers[0].delete_session(session_id)

        outcomes = add_from_everybody(callers, session_id, way=way)

        responses = outcomes.all_succeeded()
        assert sum(response.session_undeleted for response in responses) == 1
        assert not any(response.session_created for response in responses)
        sequences = [message.sequence for message in callers[0].messages(session_id)]
        assert sequences == list(range(len(callers) + 1, 2 * len(callers) + 1))
        assert callers[0].get_session(session_id).id == before.id


def ids_and_sequences(response: AddMemoryResponse) -> list[tuple[str, int]]:
    return [(message.message_id, message.sequence) for message in response.messages]


@pytest.mark.parametrize("before", ["absent", "live", "deleted"])
def test_add_memory_simultaneous_retries_store_batch_once(
    callers: list[Client], before: str
) -> None:
    first = {"absent": 1, "live": 2, "deleted": 4}[before]
    expected = [(f"m{index}", first + index) for index in range(3)]
    for number in range(ROUNDS):
        session_id = f"s{number}"
        if before == "live":
            callers[0].add(session_id, "one that was there")
        elif before == "deleted":  # with the same ids
            callers[0].add_ids(session_id, "m0", "m1", "m2")
            callers[0].delete_session(session_id)

        responses = at_once(
            [partial(caller.add_ids, session_id, "m0", "m1", "m2") for caller in callers[:8]]
        ).all_succeeded()

        assert all(ids_and_sequences(response) == expected for response in responses)
        created_at = {str(response.messages[0].created_at) for response in responses}
        assert len(created_at) == 1, "all calls returned the same message"
        assert [m.message_id for m in callers[0].messages(session_id)][-3:] == ["m0", "m1", "m2"]
        assert callers[0].get_session(session_id).last_sequence == first + 2
        callers[0].add(session_id, "next")
        assert callers[0].messages(session_id)[-1].sequence == first + 3


def test_add_memory_overlapping_batches_store_each_message_once(callers: list[Client]) -> None:
    for number in range(ROUNDS):
        session_id = f"s{number}"
        batches = [[f"m{index}" for index in range(i, i + 4)] for i in range(8)]

        responses = at_once(
            [
                partial(caller.add_ids, session_id, *batch)
                for caller, batch in zip(callers, batches, strict=False)
            ]
        ).all_succeeded()

        told = {pair for response in responses for pair in ids_and_sequences(response)}
        messages = callers[0].messages(session_id)
        assert {(m.message_id, m.sequence) for m in messages} == told
        assert len(told) == 11, "calls returned different sequences of a message"
        assert [m.sequence for m in messages] == list(range(1, 12))
        assert callers[0].get_session(session_id).last_sequence == 11


def test_add_memory_same_expected_last_sequence_succeeds_once(callers: list[Client]) -> None:
    for expected in range(ROUNDS):  # in the first round there is no session: 0
        outcomes = at_once(
            [
                partial(caller.add, "s", f"{number}", expected_last_sequence=expected)
                for number, caller in enumerate(callers)
            ]
        )

        assert len(outcomes.results) == 1
        assert outcomes.refusals == {grpc.StatusCode.ABORTED: len(callers) - 1}
        assert outcomes.results[0].messages[0].sequence == expected + 1
        assert len(callers[0].messages("s")) == expected + 1


def test_add_memory_aborted_calls_succeed_on_retry(callers: list[Client]) -> None:
    def add_after_what_is_there(number: int) -> int:
        expected, attempts = 0, 0
        while True:
            attempts += 1
            try:
                callers[number].add("s", f"{number}", expected_last_sequence=expected)
            except grpc.RpcError:
                with refused(grpc.StatusCode.ABORTED) as refusal:
                    callers[number].add("s", "never", expected_last_sequence=2**62)
                expected = int(refusal.detail(ErrorInfo).metadata["last_sequence"])
            else:
                return attempts

    at_once([partial(add_after_what_is_there, number) for number in range(8)]).all_succeeded()

    messages = callers[0].messages("s")
    assert sorted(message.content for message in messages) == [str(n) for n in range(8)]
    assert [message.sequence for message in messages] == list(range(1, 9))


def test_add_memory_races_with_updates_and_deletes_of_one_message_keep_its_counts(
    callers: list[Client],
) -> None:
    def upsert(caller: Client) -> list[int]:
        message = Message(message_id="m", role="user", content="upserted")
        response = caller.add_memory("s", [message])
        return [added.sequence for added in response.messages]

    def change(caller: Client) -> list[int]:
        request = UpdateMessageRequest(session_id="s", message_id="m", metadata=struct(a=1))
        changed = unless_refused(
            grpc.StatusCode.NOT_FOUND, lambda: caller.memory.UpdateMessage(request)
        )
        return [changed.sequence] if changed else []

    deleted: list[int] = []

    def delete(caller: Client) -> list[int]:
        request = DeleteMessagesRequest(session_id="s", message_ids=["m"])
        deleted.extend(m.sequence for m in caller.memory.DeleteMessages(request).messages)
        return []

    created = set(upsert(callers[0]))
    ways = [upsert, upsert, change, delete]
    for _ in range(3):
        calls = [partial(ways[number % 4], caller) for number, caller in enumerate(callers)]
        seen = {sequence for call in at_once(calls).all_succeeded() for sequence in call}
        created |= seen

    left = [message.sequence for message in callers[0].messages("s")]
    assert sorted(deleted + left) == sorted(created), "each was created once and deleted once"
    assert created == set(range(1, len(created) + 1)), "a sequence was skipped"
    assert callers[0].get_session("s").last_sequence == len(created)
    if not left:
        with refused(grpc.StatusCode.NOT_FOUND):
            callers[0].get_message("s", "m")


def user_message(message_id: str, content: str) -> Message:
    return Message(message_id=message_id, role="user", content=content)


@pytest.mark.parametrize("message_id", ["", "b"], ids=["without ids", "with ids"])
def test_add_memory_cancelled_during_lock_wait_writes_nothing_and_frees_connection(
    start_server: StartServer, rival: Connection, database: Connection, message_id: str
) -> None:
    client = start_server(pool_max_size=1)
    client.add("s", "first")
    request = AddMemoryRequest(session_id="s", messages=[user_message(message_id, "never")])
    rival.execute(LOCK_SESSION)
    call = client.memory.AddMemory.future(request)
    wait_until_blocked(database)

    call.cancel()

    wait_until(lambda: count_blocked(database) == 0)
    before = client.get_session("s")  # over the only connection, while the row is still locked
    rival.rollback()
    assert client.get_session("s") == before
    assert client.add("s", "next").messages[0].sequence == 2
