"""Slots that principals share fairly: of running calls, of streams, of database connections.

A principal has at most a part of the slots, so that no one can occupy all of them: its further
requests wait although slots are free. Waiting requests get slots in turns of the principals. When
the queue is full, requests of the principals that fill it are refused, never those of others.
"""

import asyncio
import sys
from asyncio import CancelledError
from collections import OrderedDict


class FairSlots:
    """Slots and a bounded queue for them, both shared by principals.

    Args:
        count: Number of slots.
        per_principal: Maximum number of slots of one principal. The principal None, which stands
            for the server itself and for all callers without authentication, may have all.
        max_waiting: Number of places in the queue.

    Attributes:
        free: Number of free slots.
        waiting: Number of places in the queue that are taken.
        ready: The shares that may take a slot as soon as one is free, in the order of their turns.
    """

    def __init__(self, count: int, *, per_principal: int, max_waiting: int = sys.maxsize) -> None:
        self.free = count
        self.waiting = 0
        self.ready: OrderedDict[Share, None] = OrderedDict()
        self._count = count
        self._per_principal = per_principal
        self._max_waiting = max_waiting
        self._waiting_shares: set[Share] = set()
        self._shares: dict[str | None, Share] = {}

    def share(self, principal: str | None) -> "Share":
        """Return the share of a principal, from which to take a slot immediately."""
        share = self._shares.get(principal)
        if share is None:
            max_slots = self._count if principal is None else self._per_principal
            share = self._shares[principal] = Share(self, principal, max_slots)
        return share

    def forget(self, share: "Share") -> None:
        """Drop the share of a principal without requests."""
        del self._shares[share.principal]

    def hand_out(self) -> None:
        """Give the free slots to waiting requests."""
        while self.free and self.ready:
            share, _ = self.ready.popitem(last=False)
            share.serve_oldest()

    def enqueue(self, share: "Share", places: int) -> bool:
        """Take places in the queue for a request; return whether there were enough.

        If the queue is full, they are taken from principals that have more than an even part.
        """
        if self.waiting + places > self._max_waiting:
            principals = len(self._waiting_shares) + (share not in self._waiting_shares)
            if share.places + places > self._max_waiting // principals:
                return False
            while self.waiting + places > self._max_waiting:  # another has more than that
                max(self._waiting_shares, key=lambda other: other.places).refuse_newest()
        self.waiting += places
        self._waiting_shares.add(share)
        return True

    def dequeue(self, share: "Share", places: int) -> None:
        """Return the places of a request that waits no longer."""
        self.waiting -= places
        if not share.places:
            self._waiting_shares.discard(share)


class Share:
    """The slots and the waiting requests of a principal.

    Attributes:
        principal: The principal's name, or None.
        places: Number of places in the queue that the waiting requests take.
    """

    __slots__ = ("_max_slots", "_requests", "_slots", "_used", "places", "principal")

    def __init__(self, slots: FairSlots, principal: str | None, max_slots: int) -> None:
        self.principal = principal
        self.places = 0
        self._slots = slots
        self._max_slots = max_slots
        self._used = 0
        # The places of the waiting requests by the future of their turn, oldest first. The result
        # of a future says whether the request got a slot; otherwise it is refused.
        self._requests: OrderedDict[asyncio.Future[bool], int] = OrderedDict()

    def try_acquire(self) -> bool:
        """Take a slot if one is free for the principal; return whether it was."""
        # While a slot is free, requests wait only in shares that are at their maximum.
        if self._slots.free and self._used < self._max_slots:
            self._slots.free -= 1
            self._used += 1
            return True
        return False

    async def acquire(self, *, places: int = 1) -> bool:
        """Take a slot, and wait for it if necessary; return False if the queue is full.

        Args:
            places: Number of places in the queue that the request takes while it waits.
        """
        if self.try_acquire():
            return True
        if not self._slots.enqueue(self, places):
            self._update()
            return False
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._requests[turn] = places
        self.places += places
        self._update()
        try:
            return await turn
        except CancelledError:
            if turn in self._requests:
                self._remove(turn)
                self._update()
            elif not turn.cancelled() and turn.result():  # it got a slot just before
                self.release()
            raise

    def release(self) -> None:
        """Return a slot, and let waiting requests have it."""
        self._slots.free += 1
        self._used -= 1
        self._update()
        self._slots.hand_out()

    def serve_oldest(self) -> None:
        """Give a free slot to the request that has waited longest."""
        turn = self._remove(next(iter(self._requests)))
        if not turn.done():  # the future of a cancelled request is done
            self._slots.free -= 1
            self._used += 1
            turn.set_result(True)
        self._update()

    def refuse_newest(self) -> None:
        """Refuse the request that has waited for the shortest time."""
        turn = self._remove(next(reversed(self._requests)))
        if not turn.done():
            turn.set_result(False)
        self._update()

    def _remove(self, turn: asyncio.Future[bool]) -> asyncio.Future[bool]:
        places = self._requests.pop(turn)
        self.places -= places
        self._slots.dequeue(self, places)
        return turn

    def _update(self) -> None:
        """Queue up for a turn if there is a request for it; leave the slots without any."""
        if self._requests and self._used < self._max_slots:
            self._slots.ready.setdefault(self)
        else:
            self._slots.ready.pop(self, None)
            if not self._requests and not self._used:
                self._slots.forget(self)
