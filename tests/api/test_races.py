"""AddMemory and AddSession under concurrency: what callers who write at once can rely on."""

from collections.abc import Callable, Iterator
from functools import partial

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    AddMemoryResponse,
    StreamMessagesRequest,
)
from palaver.v1.session_pb2 import Session
from palaver.v1.session_service_pb2 import (
    AddSessionRequest,
    DeleteSessionRequest,
    GetSessionRequest,
)
from tests.conftest import StartServer
from tests.support.client import Client, refused
from tests.support.concurrency import Outcomes, at_once, crowd

ROUNDS = 2


@pytest.fixture
def callers(request: pytest.FixtureRequest, start_server: StartServer) -> Iterator[list[Client]]:
    """32 callers, spread over two servers on one database, or as many as the test asks for."""
    servers = [start_server(pool_timeout_seconds=60) for _ in range(getattr(request, "param", 2))]
    with crowd(servers, 32) as callers:
        yield callers


def stored(client: Client, session_id: str) -> list[Message]:
    chunks = client.memory.StreamMessages(StreamMessagesRequest(session_id=session_id))
    return [message for chunk in chunks for message in chunk.messages]


def get_session(client: Client, session_id: str) -> Session:
    return client.sessions.GetSession(GetSessionRequest(session_id=session_id))


def add_ids(client: Client, session_id: str, *message_ids: str) -> AddMemoryResponse:
    messages = [Message(message_id=name, role="user", content=name) for name in message_ids]
    return client.memory.AddMemory(AddMemoryRequest(session_id=session_id, messages=messages))


def ids_and_sequences(response: AddMemoryResponse) -> list[tuple[str, int]]:
    return [(message.message_id, message.sequence) for message in response.messages]


@pytest.mark.parametrize("callers", [1, 2], ids=["one server", "two servers"], indirect=True)
def test_batches_added_at_once_are_contiguous_and_leave_no_gap(callers: list[Client]) -> None:
    def add_batches(number: int) -> list[list[tuple[str, int]]]:
        acknowledged = []
        for batch in range(3):
            contents = [f"{number}/{batch}/{index}" for index in range(1 + (number + batch) % 5)]
            # Every other caller gives ids: both ways of adding meet in one session.
            messages = [
                Message(role="user", content=content, message_id=content if number % 2 else "")
                for content in contents
            ]
            response = callers[number].memory.AddMemory(
                AddMemoryRequest(session_id="s", messages=messages)
            )
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
    assert [(m.sequence, m.content) for m in stored(callers[0], "s")] == acknowledged
    assert get_session(callers[0], "s").last_sequence == len(acknowledged)


@pytest.mark.parametrize("way", ["without ids", "with ids"])
def test_of_many_first_writes_to_a_session_one_is_told_that_it_created_it(
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
def test_of_many_who_add_to_a_deleted_session_one_is_told_that_it_is_back(
    callers: list[Client], way: str
) -> None:
    for number in range(ROUNDS):
        session_id = f"s{number}"
        add_from_everybody(callers, session_id, way=way).all_succeeded()
        before = get_session(callers[0], session_id)
        callers[0].sessions.DeleteSession(DeleteSessionRequest(session_id=session_id))

        outcomes = add_from_everybody(callers, session_id, way=way)

        responses = outcomes.all_succeeded()
        assert sum(response.session_undeleted for response in responses) == 1
        assert not any(response.session_created for response in responses)
        sequences = [message.sequence for message in stored(callers[0], session_id)]
        assert sequences == list(range(len(callers) + 1, 2 * len(callers) + 1))
        assert get_session(callers[0], session_id).id == before.id


def add_from_everybody(
    callers: list[Client], session_id: str, *, way: str
) -> Outcomes[AddMemoryResponse]:
    """Has each caller add a message of its own."""
    calls: list[Callable[[], AddMemoryResponse]] = [
        partial(add_ids, caller, session_id, f"of caller {number}")
        if way == "with ids"
        else partial(caller.add, session_id, f"of caller {number}")
        for number, caller in enumerate(callers)
    ]
    return at_once(calls)


@pytest.mark.parametrize("before", ["absent", "live", "deleted"])
def test_one_batch_sent_many_times_at_once_is_there_once(
    callers: list[Client], before: str
) -> None:
    first = {"absent": 1, "live": 2, "deleted": 4}[before]
    expected = [(f"m{index}", first + index) for index in range(3)]
    for number in range(ROUNDS):
        session_id = f"s{number}"
        if before == "live":
            callers[0].add(session_id, "one that was there")
        elif before == "deleted":  # with the very ids that are sent now
            add_ids(callers[0], session_id, "m0", "m1", "m2")
            callers[0].sessions.DeleteSession(DeleteSessionRequest(session_id=session_id))

        responses = at_once(
            [partial(add_ids, caller, session_id, "m0", "m1", "m2") for caller in callers[:8]]
        ).all_succeeded()

        assert all(ids_and_sequences(response) == expected for response in responses)
        created_at = {str(response.messages[0].created_at) for response in responses}
        assert len(created_at) == 1, "all were told of one message"
        assert [m.message_id for m in stored(callers[0], session_id)][-3:] == ["m0", "m1", "m2"]
        assert get_session(callers[0], session_id).last_sequence == first + 2
        callers[0].add(session_id, "next")
        assert stored(callers[0], session_id)[-1].sequence == first + 3


def test_batches_that_overlap_add_each_message_once(callers: list[Client]) -> None:
    for number in range(ROUNDS):
        session_id = f"s{number}"
        batches = [[f"m{index}" for index in range(i, i + 4)] for i in range(8)]

        responses = at_once(
            [
                partial(add_ids, caller, session_id, *batch)
                for caller, batch in zip(callers, batches, strict=False)
            ]
        ).all_succeeded()

        told = {pair for response in responses for pair in ids_and_sequences(response)}
        messages = stored(callers[0], session_id)
        assert {(m.message_id, m.sequence) for m in messages} == told
        assert len(told) == 11, "somebody was told another sequence of a message"
        assert [m.sequence for m in messages] == list(range(1, 12))
        assert get_session(callers[0], session_id).last_sequence == 11


def test_of_callers_who_expect_the_same_last_sequence_one_succeeds(callers: list[Client]) -> None:
    for expected in range(ROUNDS):  # the first round: no session, and so 0
        outcomes = at_once(
            [
                partial(caller.add, "s", f"{number}", expected_last_sequence=expected)
                for number, caller in enumerate(callers)
            ]
        )

        assert len(outcomes.results) == 1
        assert outcomes.refusals == {grpc.StatusCode.ABORTED: len(callers) - 1}
        assert outcomes.results[0].messages[0].sequence == expected + 1
        assert len(stored(callers[0], "s")) == expected + 1


def test_callers_who_retry_what_was_aborted_all_get_their_turn(callers: list[Client]) -> None:
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

    messages = stored(callers[0], "s")
    assert sorted(message.content for message in messages) == [str(n) for n in range(8)]
    assert [message.sequence for message in messages] == list(range(1, 9))


@pytest.mark.parametrize("before", ["absent", "deleted"])
def test_of_many_who_add_a_session_one_wins(callers: list[Client], before: str) -> None:
    for number in range(ROUNDS):
        session_id = f"s{number}"
        if before == "deleted":
            callers[0].add(session_id, "old")
            callers[0].sessions.DeleteSession(DeleteSessionRequest(session_id=session_id))

        outcomes = at_once(
            [
                partial(
                    caller.sessions.AddSession,
                    AddSessionRequest(session_id=session_id, user_id=f"user {user}"),
                )
                for user, caller in enumerate(callers)
            ]
        )

        assert len(outcomes.results) == 1
        assert outcomes.refusals == {grpc.StatusCode.ALREADY_EXISTS: len(callers) - 1}
        assert get_session(callers[0], session_id) == outcomes.results[0]
        assert stored(callers[0], session_id) == []
