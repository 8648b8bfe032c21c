"""The maximum numbers of running and waiting calls and of streams, shared fairly by principals.

Where authentication is off, all callers are one principal, which may use everything.
"""

from collections.abc import Awaitable
from dataclasses import dataclass

from google.protobuf.descriptor import MethodDescriptor

from palaver_server.auth.principal import PRINCIPAL
from palaver_server.errors import TooManyCalls
from palaver_server.fair_slots import Consumer, FairSlots, Share
from palaver_server.interceptors.interceptor import CallHooks, IncomingCall, StartCall

# A waiting call with more metadata takes several places in the queue, so that the number of places
# bounds the memory of waiting calls.
METADATA_BYTES_PER_PLACE = 4 * 1024


class ConcurrencyLimit:
    """Limits concurrent calls, and concurrent streams separately. It comes after Authentication.

    Args:
        running: Maximum number of running calls with one response.
        waiting: Maximum number of further calls that wait for a slot.
        streams: Maximum number of running calls with a stream of responses; none waits.
    """

    def __init__(self, *, running: int, waiting: int, streams: int) -> None:
        self._unary_slots = FairSlots(running, max_waiting=waiting)
        self._stream_slots = FairSlots(streams, max_waiting=0)

    def intercept(self, method: MethodDescriptor) -> StartCall:
        """Return a function that takes a slot for a call."""
        return self._start_stream if method.server_streaming else self._start_unary

    def _start_unary(self, call: IncomingCall) -> CallHooks | Awaitable[CallHooks | None]:
        share = self._unary_slots.share(_consumer())
        return _RunningCall(share) if share.try_acquire() else _wait(share, _places(call))

    def _start_stream(self, _call: IncomingCall) -> CallHooks:
        share = self._stream_slots.share(_consumer())
        if not share.try_acquire():
            share.forget_if_unused()
            raise TooManyCalls
        return _RunningCall(share)


@dataclass(slots=True, eq=False)
class _RunningCall(CallHooks):
    """A call that has a slot of a share."""

    share: Share

    def close(self) -> None:
        """Release the slot.

        Not when the handler ends: a response that waits for a slow client takes memory, and the
        limit bounds how many do.
        """
        self.share.release()


async def _wait(share: Share, places: int) -> CallHooks:
    """Wait for a slot, in this many places of the queue.

    Raises:
        TooManyCalls: The queue is full.
    """
    if not await share.acquire(places=places):
        raise TooManyCalls
    return _RunningCall(share)


def _places(call: IncomingCall) -> int:
    metadata = call.context.invocation_metadata() or ()
    size = sum(len(key) + len(value) for key, value in metadata)
    return 1 + size // METADATA_BYTES_PER_PLACE


def _consumer() -> Consumer | None:
    principal = PRINCIPAL.get()
    return principal.access.principal if principal else None
