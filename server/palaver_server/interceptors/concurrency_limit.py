"""Fair admission: the maximum numbers of running and waiting calls, shared by principals.

A principal runs at most half of the maximum, so that no one can occupy the server: its further
calls wait, although slots are free. Waiting calls get the slots of ended calls in turns of the
principals. When the queue is full, calls of the principals that fill it are refused, never those
of others. Where authentication is off, there is one principal, and it may use everything.
"""

import asyncio
from asyncio import CancelledError
from collections import OrderedDict
from collections.abc import Awaitable
from typing import Any

from google.protobuf.descriptor import MethodDescriptor

from palaver_server.auth.principal import PRINCIPAL
from palaver_server.errors import TooManyCalls
from palaver_server.interceptors.interceptor import CallHooks, Context, StartCall

# A waiting call counts once for each of these bytes of its request, which bounds the memory of
# the queue: 64 MiB with the default of 4,096 waiting calls.
_BYTES_PER_PLACE = 16 * 1024


class ConcurrencyLimit:
    """Limits concurrent calls, and concurrent streams separately. It comes after Authentication.

    Args:
        running: Maximum number of running calls with one response.
        waiting: Maximum number of further calls that wait for a slot.
        streams: Maximum number of running calls with a stream of responses; none waits.
    """

    def __init__(self, *, running: int, waiting: int, streams: int) -> None:
        self._unary_slots = _Slots(running, max_waiting=waiting)
        self._stream_slots = _Slots(streams, max_waiting=0)

    def intercept(self, method: MethodDescriptor) -> StartCall:
        """Return a function that takes a slot for a call."""
        return self._start_stream if method.server_streaming else self._start_unary

    def _start_unary(
        self, request: bytes, _context: Context
    ) -> CallHooks | Awaitable[CallHooks | None]:
        share = self._unary_slots.share()
        return share if share.try_acquire() else share.wait(len(request))

    async def _start_stream(self, request: bytes, context: Context) -> None:
        share = self._stream_slots.share()
        if not share.try_acquire():
            await share.wait(len(request))
        # Release the slot when gRPC has sent the last chunk, not when the handler ends: the
        # limit bounds the memory of chunks that wait for slow clients.
        release: Any = lambda _context: share.release()  # noqa: E731 - the stubs mistype it
        context.add_done_callback(release)


class _Slots:
    """Slots and a bounded queue for them, both shared by principals.

    Attributes:
        free: Number of free slots.
        max_running: Maximum number of slots of one principal.
        ready: The shares that may take a slot as soon as one is free, in the order of their turns.
    """

    def __init__(self, count: int, *, max_waiting: int) -> None:
        self.free = count
        self.max_running = max(1, count // 2)
        self.ready: OrderedDict[_Share, None] = OrderedDict()
        self._count = count
        self._max_places = max_waiting
        self._free_places = max_waiting
        self._waiting: set[_Share] = set()
        self._shares: dict[str | None, _Share] = {}

    def share(self) -> "_Share":
        """Return the share of the principal of the current call."""
        principal = PRINCIPAL.get()
        name = principal.name if principal else None
        share = self._shares.get(name)
        if share is None:
            max_running = self._count if principal is None else self.max_running
            share = self._shares[name] = _Share(self, name, max_running)
        return share

    def forget(self, share: "_Share") -> None:
        """Drop the share of a principal without calls."""
        del self._shares[share.name]

    def hand_out(self) -> None:
        """Give the free slots to waiting calls."""
        while self.free and self.ready:
            share, _ = self.ready.popitem(last=False)
            share.start_oldest()

    def enqueue(self, share: "_Share", places: int) -> bool:
        """Take places in the queue for a call; return whether there were enough.

        If the queue is full, they are taken from principals that have more than an even part.
        """
        if places > self._free_places:
            principals = len(self._waiting) + (share not in self._waiting)
            if share.places + places > self._max_places // principals:
                return False
            while places > self._free_places:  # so another principal has more than that
                max(self._waiting, key=lambda other: other.places).refuse_newest()
        self._free_places -= places
        self._waiting.add(share)
        return True

    def dequeue(self, share: "_Share", places: int) -> None:
        """Return the places of a call that waits no longer."""
        self._free_places += places
        if not share.places:
            self._waiting.discard(share)


class _Share(CallHooks):
    """The running and waiting calls of a principal. As hooks, it releases a slot.

    Attributes:
        name: The principal's name; None: authentication is off.
        places: Number of places in the queue that the waiting calls take.
    """

    __slots__ = ("_calls", "_max_running", "_running", "_slots", "name", "places")

    def __init__(self, slots: _Slots, name: str | None, max_running: int) -> None:
        self.name = name
        self.places = 0
        self._slots = slots
        self._max_running = max_running
        self._running = 0
        # The places of the waiting calls by the future of their turn, oldest first. The result
        # of a future says whether the call got a slot; otherwise it is refused.
        self._calls: OrderedDict[asyncio.Future[bool], int] = OrderedDict()

    def try_acquire(self) -> bool:
        """Take a slot if one is free for the principal; return whether it was."""
        # While a slot is free, calls wait only in shares that are at their maximum.
        if self._slots.free and self._running < self._max_running:
            self._slots.free -= 1
            self._running += 1
            return True
        return False

    def end(self, error: BaseException | None) -> BaseException | None:
        """Release the slot of a call."""
        self.release()
        return error

    def release(self) -> None:
        """Free a slot, and let waiting calls have it."""
        self._slots.free += 1
        self._running -= 1
        self._update()
        self._slots.hand_out()

    async def wait(self, request_bytes: int) -> CallHooks:
        """Wait for a slot, take it, and return its hooks.

        Raises:
            TooManyCalls: The queue is full.
        """
        places = 1 + request_bytes // _BYTES_PER_PLACE
        if not self._slots.enqueue(self, places):
            self._update()
            raise TooManyCalls
        turn = asyncio.get_running_loop().create_future()
        self._calls[turn] = places
        self.places += places
        self._update()
        try:
            has_slot = await turn
        except CancelledError:
            if turn in self._calls:
                self._remove(turn)
                self._update()
            elif not turn.cancelled() and turn.result():  # it got a slot just before
                self.release()
            raise
        if not has_slot:
            raise TooManyCalls
        return self

    def start_oldest(self) -> None:
        """Give a free slot to the call that has waited longest."""
        turn = self._remove(next(iter(self._calls)))
        if not turn.done():  # the future of a cancelled call is done
            self._slots.free -= 1
            self._running += 1
            turn.set_result(True)
        self._update()

    def refuse_newest(self) -> None:
        """Refuse the call that has waited for the shortest time."""
        turn = self._remove(next(reversed(self._calls)))
        if not turn.done():
            turn.set_result(False)
        self._update()

    def _remove(self, turn: asyncio.Future[bool]) -> asyncio.Future[bool]:
        places = self._calls.pop(turn, 0)
        self.places -= places
        self._slots.dequeue(self, places)
        return turn

    def _update(self) -> None:
        """Queue up for a turn if there is a call for it; leave the slots without any call."""
        if self._calls and self._running < self._max_running:
            self._slots.ready.setdefault(self)
        else:
            self._slots.ready.pop(self, None)
            if not self._calls and not self._running:
                self._slots.forget(self)
