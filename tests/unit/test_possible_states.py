"""The possible states of the chaos run: they allow each outcome of a lost call, and no other."""

import grpc
import pytest
from google.protobuf import any_pb2
from google.protobuf.message import Message as ProtobufMessage
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import ErrorInfo, ResourceInfo
from google.rpc.status_pb2 import Status

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import (
    AddedMessage,
    AddMemoryRequest,
    AddMemoryResponse,
    DeleteMessagesRequest,
    DeleteMessagesResponse,
    GetMessageRequest,
    ListMessagesRequest,
    ListMessagesResponse,
)
from palaver.v1.session_service_pb2 import DeleteSessionRequest, DeleteSessionResponse
from tests.support.model.expected import BrokenPromise
from tests.support.model.possible import PossibleStates
from tests.support.model.state import Untold

START = Timestamp(seconds=1)


def add(name: str, *, expected_last_sequence: int | None = None) -> AddMemoryRequest:
    return AddMemoryRequest(
        session_id="s",
        messages=[Message(message_id=name, role="user", content=name)],
        expected_last_sequence=expected_last_sequence,
    )


def added(
    name: str, sequence: int, *, created: bool = False, undeleted: bool = False
) -> list[ProtobufMessage]:
    message = AddedMessage(message_id=name, sequence=sequence, created_at=START)
    response = AddMemoryResponse(
        session_created=created, session_undeleted=undeleted, messages=[message]
    )
    return [response]


def stored(name: str, sequence: int, *, revision: int = 1) -> Message:
    return Message(
        message_id=name,
        role="user",
        content=name,
        sequence=sequence,
        revision=revision,
        created_at=START,
        updated_at=START,
    )


def listed(*messages: Message) -> list[ProtobufMessage]:
    return [ListMessagesResponse(messages=messages)]


def refusal(code: grpc.StatusCode, detail: ProtobufMessage) -> grpc.aio.AioRpcError:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status = Status(code=code.value[0], details=[packed]).SerializeToString()
    metadata = grpc.aio.Metadata(("grpc-status-details-bin", status))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), metadata)


def not_found(kind: str, name: str) -> grpc.aio.AioRpcError:
    detail = ResourceInfo(resource_type=f"palaver.v1.{kind}", resource_name=name)
    return refusal(grpc.StatusCode.NOT_FOUND, detail)


def stale(last_sequence: int) -> grpc.aio.AioRpcError:
    metadata = {"last_sequence": str(last_sequence)}
    detail = ErrorInfo(reason="STALE_LAST_SEQUENCE", metadata=metadata)
    return refusal(grpc.StatusCode.ABORTED, detail)


LIST = ListMessagesRequest(session_id="s")
DELETE_SESSION = DeleteSessionRequest(session_id="s")
GET_B = GetMessageRequest(session_id="s", message_id="b")


@pytest.fixture
def states() -> PossibleStates:
    """The states of a session to which a was added."""
    states = PossibleStates()
    states.answered(add("a"), added("a", 1, created=True))
    return states


@pytest.fixture
def uncertain(states: PossibleStates) -> PossibleStates:
    """The same, after an answer to the add of b was lost."""
    states.lost(add("b"))
    return states


@pytest.mark.parametrize(
    "responses",
    [
        added("b", 1),
        added("b", 3),
        added("c", 2),
        added("b", 2, created=True),
    ],
    ids=["reused sequence", "gap", "another id", "created"],
)
def test_possible_states_wrong_answer_is_detected(
    states: PossibleStates, responses: list[ProtobufMessage]
) -> None:
    with pytest.raises(BrokenPromise):
        states.answered(add("b"), responses)


def test_possible_states_wrong_refusal_is_detected(states: PossibleStates) -> None:
    with pytest.raises(BrokenPromise):
        states.refused(LIST, not_found("Session", "s"))


def test_possible_states_answer_instead_of_a_refusal_is_detected(states: PossibleStates) -> None:
    with pytest.raises(BrokenPromise):
        states.answered(add("b", expected_last_sequence=0), added("b", 2))


def test_possible_states_lost_call_may_be_carried_out_later(uncertain: PossibleStates) -> None:
    uncertain.answered(LIST, listed(stored("a", 1)))
    uncertain.answered(LIST, listed(stored("a", 1), stored("b", 2)))

    with pytest.raises(BrokenPromise):  # it cannot be undone
        uncertain.answered(LIST, listed(stored("a", 1)))


def test_possible_states_retry_of_a_lost_call_has_the_same_result(
    uncertain: PossibleStates,
) -> None:
    uncertain.answered(add("b"), added("b", 2))
    uncertain.answered(LIST, listed(stored("a", 1), stored("b", 2)))

    with pytest.raises(BrokenPromise):
        uncertain.answered(LIST, listed(stored("a", 1), stored("b", 2), stored("b", 3)))


def test_possible_states_lost_call_may_bring_a_deleted_message_back(
    uncertain: PossibleStates,
) -> None:
    uncertain.answered(add("b"), added("b", 2))
    delete = DeleteMessagesRequest(session_id="s", message_ids=["b"])
    uncertain.answered(delete, [DeleteMessagesResponse(messages=[stored("b", 2)])])

    uncertain.refused(GET_B, not_found("Message", "b"))
    uncertain.answered(GET_B, [stored("b", 3, revision=3)])


def test_possible_states_deleted_message_that_is_back_is_detected(states: PossibleStates) -> None:
    states.answered(add("b"), added("b", 2))
    delete = DeleteMessagesRequest(session_id="s", message_ids=["b"])
    states.answered(delete, [DeleteMessagesResponse(messages=[stored("b", 2)])])

    with pytest.raises(BrokenPromise):
        states.answered(GET_B, [stored("b", 2)])


def test_possible_states_expected_sequence_tells_whether_a_lost_call_was_carried_out(
    states: PossibleStates,
) -> None:
    request = add("b", expected_last_sequence=1)
    states.lost(request)
    states.refused(request, stale(2))
    assert states.session_exists("s")

    with pytest.raises(BrokenPromise):
        states.answered(LIST, listed(stored("a", 1)))


@pytest.mark.parametrize(
    "responses",
    [added("b", 1, created=True), added("b", 2, undeleted=True)],
    ids=["purged", "not purged"],
)
def test_possible_states_purge_may_have_taken_a_deleted_session(
    states: PossibleStates, responses: list[ProtobufMessage]
) -> None:
    deleted = DeleteSessionResponse(deleted_at=START, messages_deleted=1)
    states.answered(DELETE_SESSION, [deleted])
    assert states.session_exists("s") is False

    states.answered(add("b"), responses)
    assert states.session_exists("s")


def test_possible_states_session_with_a_short_ttl_may_have_expired(states: PossibleStates) -> None:
    request = add("b")
    request.ttl.seconds = 2
    states.answered(request, added("b", 2))
    assert states.session_exists("s") is None

    states.answered(LIST, listed(stored("a", 1), stored("b", 2)))
    states.refused(LIST, not_found("Session", "s"))
    with pytest.raises(BrokenPromise):  # it has expired for good
        states.answered(LIST, listed(stored("a", 1), stored("b", 2)))


def test_possible_states_expiry_of_a_lasting_session_is_detected(states: PossibleStates) -> None:
    request = add("b")
    request.ttl.seconds = 3600
    states.answered(request, added("b", 2))

    with pytest.raises(BrokenPromise):
        states.refused(LIST, not_found("Session", "s"))


def test_possible_states_existence_is_unknown_after_a_lost_delete(states: PossibleStates) -> None:
    states.lost(DELETE_SESSION)
    assert states.session_exists("s") is None

    states.refused(DELETE_SESSION, not_found("Session", "s"))
    assert states.session_exists("s") is False


def test_possible_states_too_many_are_given_up(states: PossibleStates) -> None:
    def lose_many() -> None:
        for number in range(100):
            states.lost(add(f"m{number}"))

    with pytest.raises(Untold):
        lose_many()
