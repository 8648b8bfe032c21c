"""Slots that principals share fairly: of running calls, of streams, of database connections.

A principal takes a further slot only while it has fewer than are free: alone it gets half of them,
two get a third each, and there are always some left for a principal that has none (this rule is
known as dynamic thresholds). Its further requests wait although slots are free.

Waiting requests get slots by start-time fair queuing: the next one is that of the principal that
has got least since it began to wait. Principals get turns one after the other, or equal amounts of
time where their time is charged, each in proportion to its weight. When the queue is full, requests
of the principals that fill it are refused, never those of others.
"""

import asyncio
import sys
from asyncio import CancelledError
from heapq import heappop, heappush
from itertools import count as counter
from typing import NamedTuple


class Consumer(NamedTuple):
    """A principal, as far as its shares are concerned.

    Attributes:
        name: The name of the principal.
        weight: How many times as much as others it may use.
    """

    name: str
    weight: int = 1


class FairSlots:
    """Slots and a bounded queue for them, both shared by principals.

    Args:
        count: Number of slots.
        max_per_principal: Maximum number of slots of one principal, if the slots have one. The
            consumer None, which stands for the server itself and for all callers without
            authentication, may have all.
        max_waiting: Number of places in the queue.
        is_charged_by_time: Whether `charge` says what a principal got, instead of its turns.

    Attributes:
        free: Number of free slots.
        waiting: Number of places in the queue that are taken.
        now: What the principal whose turn was the last had got before: the beginning for a
            principal that begins to wait.
        cost_of_turn: What a principal of weight 1 gets by a turn.
    """

    def __init__(
        self,
        count: int,
        *,
        max_per_principal: int | None = None,
        max_waiting: int = sys.maxsize,
        is_charged_by_time: bool = False,
    ) -> None:
        self.free = count
        self.waiting = 0
        self.now = 0.0
        self.cost_of_turn = 0.0 if is_charged_by_time else 1.0
        self._count = count
        self._max_per_principal = max_per_principal or count
        self._max_waiting = max_waiting
        self._waiting_shares: set[Share] = set()
        self._shares: dict[str | None, Share] = {}
        # A heap of the shares that wait for a turn: what they have got, and in which order they
        # began to wait. A share whose requests were cancelled stays until its turn.
        self._turns: list[tuple[float, int, Share]] = []
        self._numbers = counter()

    def share(self, consumer: Consumer | None) -> "Share":
        """Return the share of a principal, from which to take a slot immediately."""
        name = consumer.name if consumer else None
        share = self._shares.get(name)
        if share is None:
            if consumer:
                share = Share(self, name, consumer.weight, self._max_per_principal)
            else:  # a weight with which it takes the last slot too
                share = Share(self, None, self._count, self._count)
            self._shares[name] = share
        return share

    def forget(self, share: "Share") -> None:
        """Drop the share of a principal without requests."""
        del self._shares[share.principal]

    def add_turn(self, share: "Share") -> None:
        """Have a share wait for its turn."""
        heappush(self._turns, (share.got, next(self._numbers), share))

    def hand_out(self) -> None:
        """Give the free slots to waiting requests."""
        passed_over = []
        while self.free and self._turns:
            got, _, share = turn = heappop(self._turns)
            if not share.places:  # its requests were cancelled or refused
                share.leave_turns()
            elif got < share.got:  # it was charged in the meantime
                self.add_turn(share)
            elif share.may_take_slot():
                self.now = got
                share.serve_oldest()
            else:
                passed_over.append(turn)
        for turn in passed_over:
            heappush(self._turns, turn)

    @property
    def is_contended(self) -> bool:
        """Whether requests wait."""
        return bool(self._turns)

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
        got: What the principal got while others waited, divided by its weight.
    """

    __slots__ = (
        "_has_turn",
        "_max_slots",
        "_requests",
        "_slots",
        "_used",
        "_weight",
        "got",
        "places",
        "principal",
    )

    def __init__(
        self, slots: FairSlots, principal: str | None, weight: int, max_slots: int
    ) -> None:
        self.principal = principal
        self.places = 0
        self.got = slots.now
        self._slots = slots
        self._weight = weight
        self._max_slots = max_slots
        self._used = 0
        self._has_turn = False
        # The places of the waiting requests by the future of their turn, oldest first. The result
        # of a future says whether the request got a slot; otherwise it is refused.
        self._requests: dict[asyncio.Future[bool], int] = {}

    def may_take_slot(self) -> bool:
        """Return whether a slot is free for the principal."""
        return self._used < self._max_slots and self._used < self._weight * self._slots.free

    def try_acquire(self) -> bool:
        """Take a slot if one is free for the principal; return whether it was."""
        # Requests wait only in shares for which none is free.
        if self.may_take_slot():
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
            self.forget_if_unused()
            return False
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._requests[turn] = places
        self.places += places
        if not self._has_turn:
            self._has_turn = True
            self.got = max(self.got, self._slots.now)
            self._slots.add_turn(self)
        try:
            return await turn
        except CancelledError:
            if turn in self._requests:
                self._remove(turn)
            elif not turn.cancelled() and turn.result():  # it got a slot just before
                self.release()
            raise

    def release(self) -> None:
        """Return a slot, and let waiting requests have it."""
        self._slots.free += 1
        self._used -= 1
        self.forget_if_unused()
        self._slots.hand_out()

    def charge(self, seconds: float) -> None:
        """Count time towards what the principal got, if others may have waited for it."""
        if self._slots.is_contended:
            self.got = max(self.got, self._slots.now) + seconds / self._weight

    def serve_oldest(self) -> None:
        """Give a free slot to the request that has waited longest, and wait for the next turn."""
        turn = self._remove(next(iter(self._requests)))
        if not turn.done():  # the future of a cancelled request is done
            self._slots.free -= 1
            self._used += 1
            self.got += self._slots.cost_of_turn / self._weight
            turn.set_result(True)
        if self._requests:
            self._slots.add_turn(self)
        else:
            self.leave_turns()

    def refuse_newest(self) -> None:
        """Refuse the request that has waited for the shortest time."""
        turn = self._remove(next(reversed(self._requests)))
        if not turn.done():
            turn.set_result(False)

    def leave_turns(self) -> None:
        """Note that no turn is waited for any more, for lack of requests."""
        self._has_turn = False
        self.forget_if_unused()

    def forget_if_unused(self) -> None:
        """Drop the share of a principal if it has neither slots nor requests."""
        if not (self._used or self._has_turn) and self.principal is not None:
            self._slots.forget(self)

    def _remove(self, turn: asyncio.Future[bool]) -> asyncio.Future[bool]:
        places = self._requests.pop(turn)
        self.places -= places
        self._slots.dequeue(self, places)
        return turn
