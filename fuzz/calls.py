"""Calls with requests as bytes, and how they end."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from fuzz.cases import Case

# What gRPC has no names for.
HANG, NO_RESPONSE = "HANG", "NO_RESPONSE"

# Streams are left after so many, as callers leave them: some never end.
_MOST_RESPONSES = 3
_MOST_STATES = 1

# A call that is over its deadline by so much hangs.
_SECONDS_OF_MARGIN = 10.0


class Outcome(NamedTuple):
    """How a call ended: the name of its code, and what the server says to it."""

    code: str
    details: str = ""


async def call(channel: grpc.aio.Channel, case: Case, *, seconds: float) -> Outcome:
    """Makes a call, reads some of its responses, and gives how it ended."""
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
    """Begins a call; on the wire, one response is a stream of one."""

    async def requests() -> AsyncIterator[bytes]:
        yield case.request

    if case.method.client_streaming:
        make: Any = channel.stream_stream(case.path)
        return make(requests(), timeout=seconds)
    make = channel.unary_stream(case.path)
    return make(case.request, timeout=seconds)


async def _read(call: Any, case: Case) -> Outcome:
    response_class = GetMessageClass(case.method.output_type)
    most = _MOST_STATES if case.method.name == "Watch" else _MOST_RESPONSES
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
