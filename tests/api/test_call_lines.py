"""Log lines of calls: the request id, which is returned too, the trace, and the caller."""

import logging
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from palaver.v1.memory_service_pb2 import StreamMessagesRequest
from palaver.v1.session_service_pb2 import GetSessionRequest
from palaver_server.call_context import Call
from palaver_server.telemetry.call_log import log_calls
from tests.conftest import StartServer
from tests.support.callers import KeysFile, caller
from tests.support.client import Client, wait_until


def request_id_of(call: Any) -> str:
    (request_id,) = [value for key, value in call.trailing_metadata() if key == "x-request-id"]
    return str(request_id)


def get(palaver: Client, *metadata: tuple[str, str]) -> Any:
    """Get a session that does not exist, and return the call."""
    request = GetSessionRequest(session_id="none")
    call = palaver.sessions.GetSession.future(request, metadata=metadata)
    assert call.code() is grpc.StatusCode.NOT_FOUND
    return call


def test_request_id_of_caller_comes_back(palaver: Client) -> None:
    palaver.add("s", "hello")
    metadata = (("x-request-id", "mine/1:a=b"),)
    request = GetSessionRequest(session_id="s")
    _, unary = palaver.sessions.GetSession.with_call(request, metadata=metadata)
    stream = palaver.memory.StreamMessages(StreamMessagesRequest(session_id="s"), metadata=metadata)
    list(stream)

    assert [request_id_of(call) for call in (unary, stream, get(palaver, *metadata))] == [
        "mine/1:a=b"
    ] * 3


def test_request_id_is_generated_when_missing(palaver: Client) -> None:
    first, second = request_id_of(get(palaver)), request_id_of(get(palaver))

    assert first != second
    assert {len(first), len(second)} == {32}


# A header holds printable ASCII characters.
headers = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=140)


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(headers)
@example("x" * 128)
@example("x" * 129)
@example("two words")
def test_request_id_too_long_or_forging_lines_is_replaced(palaver: Client, sent: str) -> None:
    returned = request_id_of(get(palaver, ("x-request-id", sent)))

    if 1 <= len(sent) <= 128 and " " not in sent:
        assert returned == sent
    else:
        assert len(returned) == 32
        assert returned.isalnum()


def logged_calls(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Wait for lines of calls, and return their fields."""

    def found() -> list[dict[str, Any]]:
        records = [record for record in caplog.records if record.getMessage() == "call"]
        return [record.__dict__["fields"] for record in records]

    wait_until(lambda: bool(found()))
    return found()


def test_call_log_names_principal_without_key(
    start_server: StartServer, keys_file: KeysFile, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key = keys_file.add()
    address = start_server(credentials=keys_file.path).address

    with caller(address, key) as client:
        client.add("s", "hello")
    (fields,) = logged_calls(caplog)
    caplog.clear()
    with caller(address, "wrong") as client, pytest.raises(grpc.RpcError):
        client.add("s", "hello")
    (refused,) = logged_calls(caplog)

    assert (fields["principal"], fields["code"]) == ("key 0", "OK")
    assert (refused["principal"], refused["code"]) == ("", "UNAUTHENTICATED")
    assert key not in str(fields)
    assert key not in caplog.text


TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize(
    ("parent", "trace_id"),
    [
        (f"00-{TRACE_ID}-00f067aa0ba902b7-01", TRACE_ID),
        (f"00-{TRACE_ID}-00f067aa0ba902b7", ""),
        ("nonsense", ""),
    ],
)
def test_call_log_names_trace_of_caller(
    palaver: Client, caplog: pytest.LogCaptureFixture, parent: str, trace_id: str
) -> None:
    caplog.set_level(logging.INFO)

    get(palaver, ("traceparent", parent))

    (fields,) = logged_calls(caplog)
    assert fields["trace_id"] == trace_id


@pytest.mark.parametrize(
    ("level", "codes"),
    [
        (logging.INFO, ["OK", "NOT_FOUND", "UNAVAILABLE"]),
        (logging.WARNING, ["UNAVAILABLE"]),
        (logging.ERROR, []),
    ],
)
def test_call_log_level_selects_calls(
    caplog: pytest.LogCaptureFixture, level: int, codes: list[str]
) -> None:
    caplog.set_level(level)

    all_codes = ("OK", "NOT_FOUND", "UNAVAILABLE")

    log_calls([Call("/palaver.v1.S/M", "id", "", "peer", 1, 0.0, code=code) for code in all_codes])

    assert [record.__dict__["fields"]["code"] for record in caplog.records] == codes
