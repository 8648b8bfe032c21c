"""Listings of all sessions, checked against all books; and the purge."""

from collections import Counter
from collections.abc import Sequence
from random import Random

from google.protobuf.duration_pb2 import Duration

from chaos.caller import Caller
from chaos.ledger import Ledger
from palaver.v1.admin_service_pb2 import PurgeDeletedRequest
from palaver.v1.session_pb2 import Session
from palaver.v1.session_service_pb2 import ListAllSessionsRequest, ListSessionsRequest
from tests.support.model.expected import BrokenPromise


class Listing:
    """Checks a listing of all sessions that begins now."""

    def __init__(self, ledger: Ledger) -> None:
        self._turns = {book: (book.exists, book.turns) for book in ledger.books}

    def gives(self, sessions: Sequence[Session], *, newest_first: bool) -> None:
        """Check that each session that existed all the time is listed once, in order.

        A session that did not exist all the time must not be listed. A session that was
        created or deleted during the listing may be, because a new one gets a new position.

        Raises:
            BrokenPromise: The listing has other sessions, or another order.
        """
        positions = [session.id for session in sessions]
        if positions != sorted(set(positions), reverse=newest_first):
            raise BrokenPromise("the listing is out of order, or has a position twice")
        listed = Counter(session.session_id for session in sessions)
        for book, (existed, turns) in self._turns.items():
            settled = existed is book.exists is not None and turns == book.turns
            if settled and listed[book.session_id] != existed:
                raise BrokenPromise(
                    f"{book.session_id} is listed {listed[book.session_id]} times,"
                    f" and exists: {existed}"
                )


class Lister:
    """Lists all sessions by pages and by streams, and purges deleted rows."""

    def __init__(self, caller: Caller, ledger: Ledger, random: Random) -> None:
        self._caller = caller
        self._ledger = ledger
        self._random = random

    async def page(self) -> None:
        """List all sessions by pages."""
        listing, sessions = Listing(self._ledger), []
        newest_first = self._random.random() < 0.5
        request = ListSessionsRequest(limit=200, newest_first=newest_first)
        while True:
            page = await self._caller.answered(request)
            sessions += page.sessions
            if not page.next_cursor:
                break
            request.cursor = page.next_cursor
        listing.gives(sessions, newest_first=newest_first)

    async def stream(self) -> None:
        """List all sessions by streams, each from the cursor of the previous one."""
        listing = Listing(self._ledger)
        newest_first = self._random.random() < 0.5
        chunks = await self._caller.streamed(
            ListAllSessionsRequest(chunk_size=50, newest_first=newest_first)
        )
        sessions = [session for chunk in chunks for session in chunk.sessions]
        listing.gives(sessions, newest_first=newest_first)

    async def purge(self) -> None:
        """Purge rows that were deleted at least 0 or 2 seconds ago."""
        seconds = self._random.choice((0, 0, 2))
        await self._caller.answered(PurgeDeletedRequest(older_than=Duration(seconds=seconds)))
