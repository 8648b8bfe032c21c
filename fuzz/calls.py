"""Call methods with encoded requests, and report how the calls end."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from fuzz.cases import Case

# Outcomes that are not gRPC codes.
HANG, NO_RESPONSE = "HANG", "NO_RESPONSE"

# A stream is cancelled after this many responses: some never end.
_MAX_RESPONSES = 3
_MAX_STATES = 1

# A call hangs if it has not ended this long after its deadline.
_SECONDS_OF_MARGIN = 10.0


class Outcome(NamedTuple):
    """The outcome of a call: the name of its code, and the server's message."""

    code: str
    details: str = ""


async def call(channel: grpc.aio.Channel, case: Case, *, seconds: float) -> Outcome:
    """Make a call, read some of its responses, and return its outcome."""
    try:
        async with asyncio.timeout(seconds + _SECONDS_OF_MARGIN):
            return await _read(_begun(channel, case, seconds), case)
    except grpc.aio.AioRpcError as error:
        return Outcome(error.code().name, error.details() or "")
    except DecodeError as error:
        return Outcome(NO_RESPONSE, str(error))
    except TimeoutError:
        return Outcome(HANG, f"it did not end within {_SECONDS_OF_MARGIN:g} s of its deadline")


def _begun(channel: grpc.aio.Channel, case: Case, seconds: float) -> Any:
    """Start a call as a stream: on the wire, a single response is a stream of one."""

    async def requests() -> AsyncIterator[bytes]:
        yield case.request

    if case.method.client_streaming:
        make: Any = channel.stream_stream(case.path)
        return make(requests(), timeout=seconds)
    make = channel.unary_stream(case.path)
    return make(case.request, timeout=seconds)


async def _read(call: Any, case: Case) -> Outcome:
    response_class = GetMessageClass(case.method.output_type)
    most = _MAX_STATES if case.method.name == "Watch" else _MAX_RESPONSES
    count = 0
    async for response in call:
        response_class.FromString(response)
        count += 1
        if count == most:
            call.cancel()
            return Outcome("OK")
    if not count and not case.method.server_streaming:
        return Outcome(NO_RESPONSE, "it ended well, without a response")
    return Outcome("OK")
