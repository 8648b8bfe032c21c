"""Listings of all sessions and all users, checked against the ledger; and the purge."""

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, NamedTuple

from google.protobuf.duration_pb2 import Duration

from chaos.caller import Caller, Request
from chaos.ledger import Ledger
from palaver.v1.admin_service_pb2 import PurgeDeletedRequest
from palaver.v1.session_service_pb2 import ListAllSessionsRequest, ListSessionsRequest
from palaver.v1.user_service_pb2 import ListAllUsersRequest, ListUsersRequest
from tests.support.model.expected import BrokenPromise
from tests.support.model.presence import Presence


class Kind(NamedTuple):
    """What a listing lists.

    Attributes:
        items: The field of the responses.
        name: The field that has the id.
        page: Makes the request for a page.
        stream: Makes the request for a stream.
    """

    items: str
    name: str
    page: Callable[..., Request]
    stream: Callable[..., Request]


SESSIONS = Kind("sessions", "session_id", ListSessionsRequest, ListAllSessionsRequest)
USERS = Kind("users", "user_id", ListUsersRequest, ListAllUsersRequest)


class Listing:
    """Checks a listing of everything of a kind that begins now."""

    def __init__(self, presences: Sequence[Presence]) -> None:
        self._turns = {presence: (presence.exists, presence.turns) for presence in presences}

    def gives(self, listed: Sequence[tuple[int, str]], *, newest_first: bool) -> None:
        """Check positions and names: what existed all the time is listed once, in order.

        What did not exist all the time must not be listed. What was created or deleted during
        the listing may be, because it gets a new position.

        Raises:
            BrokenPromise: The listing has others, or another order.
        """
        positions = [position for position, _ in listed]
        if positions != sorted(set(positions), reverse=newest_first):
            raise BrokenPromise("the listing is out of order, or has a position twice")
        times = Counter(name for _, name in listed)
        for presence, (existed, turns) in self._turns.items():
            settled = existed is not None and turns == presence.turns
            if settled and times[presence.name] != existed:
                raise BrokenPromise(
                    f"{presence.name} is listed {times[presence.name]} times, and exists: {existed}"
                )


class Lister:
    """Lists everything of a kind by pages and by streams."""

    def __init__(self, caller: Caller, ledger: Ledger, random: Random, kind: Kind) -> None:
        self._caller = caller
        self._presences = ledger.sessions if kind is SESSIONS else ledger.users
        self._random = random
        self._kind = kind

    async def page(self) -> None:
        """List everything by pages."""
        listing = Listing(self._presences)
        newest_first = self._random.random() < 0.5
        request = self._kind.page(limit=200, newest_first=newest_first)
        pages: list[Any] = []
        while not pages or request.cursor:
            pages.append(await self._caller.answered(request))
            request.cursor = pages[-1].next_cursor
        self._check(listing, pages, newest_first=newest_first)

    async def stream(self) -> None:
        """List everything by streams, each from the cursor of the previous one."""
        listing = Listing(self._presences)
        newest_first = self._random.random() < 0.5
        request = self._kind.stream(chunk_size=50, newest_first=newest_first)
        self._check(listing, await self._caller.streamed(request), newest_first=newest_first)

    def _check(self, listing: Listing, responses: Sequence[Any], *, newest_first: bool) -> None:
        items = [item for response in responses for item in getattr(response, self._kind.items)]
        listed = [(item.id, getattr(item, self._kind.name)) for item in items]
        listing.gives(listed, newest_first=newest_first)


async def purge(caller: Caller, random: Random) -> None:
    """Purge rows that were deleted at least 0 or 2 seconds ago."""
    seconds = random.choice((0, 0, 2))
    await caller.answered(PurgeDeletedRequest(older_than=Duration(seconds=seconds)))
