"""Large requests decode as protobuf decodes them, for arbitrary bytes."""

from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fuzz.messages import messages
from palaver_server.errors import InvalidRequest
from palaver_server.interceptors.large_requests import LargeRequestDecoder
from palaver_server.services.encoding.wire_reader import read_varint, wire_fields
from palaver_server.services.limits import MAX_NAME_CHARACTERS
from tests.support.contract import METHODS

# Bytes of the longest name of a user. No field of a smaller request is too long.
_SMALLEST_LIMIT = 4 * MAX_NAME_CHARACTERS

REQUESTS = {method.input_type.name: method.input_type for method in METHODS}


def decoded(descriptor: Descriptor, data: bytes) -> Any:
    """Return the whole message that a large request decodes to; None if it is refused."""
    try:
        request: Any = LargeRequestDecoder(descriptor).decode(data)
        message = GetMessageClass(descriptor)()
        message.CopyFrom(request._others)
        for name, items in request._lists.items():
            getattr(message, name).extend(items)
    except InvalidRequest:
        return None
    return message


def parsed(descriptor: Descriptor, data: bytes) -> Any:
    """Return the message that protobuf makes of the bytes; None if it makes none."""
    try:
        return GetMessageClass(descriptor).FromString(data)
    except DecodeError:
        return None


@pytest.mark.parametrize("name", REQUESTS)
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_large_request_decodes_as_protobuf_does(name: str, data: st.DataObject) -> None:
    descriptor = REQUESTS[name]
    request = data.draw(messages(descriptor, odd=True))
    cut = data.draw(st.none() | st.integers(0, len(request)))

    expected = parsed(descriptor, request[:cut])

    # It may be over a limit, but then it is refused.
    assert decoded(descriptor, request[:cut]) in (None, expected)


@pytest.mark.parametrize("name", REQUESTS)
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_large_request_within_limits_is_not_refused(name: str, data: st.DataObject) -> None:
    descriptor = REQUESTS[name]
    request = data.draw(messages(descriptor, odd=False))
    assume(len(request) <= _SMALLEST_LIMIT)

    assert decoded(descriptor, request) == parsed(descriptor, request)


@given(st.binary(max_size=50))
def test_wire_fields_of_any_bytes_end_or_raise_value_error(data: bytes) -> None:
    end = 0
    try:
        for field in wire_fields(data):
            assert field.tag_start == end
            end = field.end
    except ValueError:
        return
    assert end == len(data)


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 11], ids=["none", "truncated", "long"])
def test_wire_varint_that_has_no_end_raises_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="varint"):
        read_varint(data, 0)
