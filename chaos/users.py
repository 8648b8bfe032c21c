"""A caller that is the only one to use a user and its sessions, and deletes the user."""

from random import Random

from chaos import writes
from chaos.caller import Caller, Refused
from chaos.ledger import Ledger
from chaos.reads import EVERY_READ, WORD
from palaver.v1.session_pb2 import SessionFilter
from palaver.v1.session_service_pb2 import ListSessionsRequest
from palaver.v1.user_service_pb2 import DeleteUserRequest, GetUserRequest
from tests.support.model.expected import BrokenPromise

_SESSIONS = 3


class UserOwner:
    """Adds to the sessions of a user, reads them, and deletes the user with all of them."""

    def __init__(self, caller: Caller, ledger: Ledger, random: Random) -> None:
        self._caller = caller
        self._ledger = ledger
        self._random = random
        self._begin()

    async def step(self) -> None:
        """Make the next call."""
        if any(book.is_full for book in self._books):
            self._begin()
        choices = [self._add, self._add, self._read, self._read, self._get, self._list]
        if self._ledger.users[self._user_id]:
            choices.append(self._delete)
        try:
            await self._random.choice(choices)()
        except BrokenPromise:
            self._begin()
            raise

    def _begin(self) -> None:
        self._user_id = self._ledger.new_user()
        self._books = [self._ledger.open_book() for _ in range(_SESSIONS)]

    async def _add(self) -> None:
        book = self._random.choice(self._books)
        self._ledger.users[self._user_id] = None
        contents = [f"{self._ledger.new_name()} {WORD}" for _ in range(2)]
        await writes.add(self._caller, book, contents, self._user_id)
        self._ledger.users[self._user_id] = True

    async def _read(self) -> None:
        read = self._random.choice(EVERY_READ)
        await read(self._caller, self._random.choice(self._books), self._random)

    async def _get(self) -> None:
        expected = self._ledger.users[self._user_id]
        exists = await user_exists(self._caller, self._user_id)
        if expected not in (None, exists):
            raise BrokenPromise(f"{self._user_id}: exists: {exists}, expected {expected}")

    async def _list(self) -> None:
        request = ListSessionsRequest(filter=SessionFilter(user_id=self._user_id))
        page = await self._caller.answered(request)
        listed = [session.session_id for session in page.sessions]
        must = {book.session_id for book in self._books if book.exists}
        may = {book.session_id for book in self._books if book.exists is not False}
        if len(set(listed)) != len(listed) or not must <= set(listed) <= may:
            raise BrokenPromise(f"{self._user_id} has {listed}; expected {must}, allowed {may}")

    async def _delete(self) -> None:
        self._ledger.users[self._user_id] = None
        for book in self._books:
            book.will_delete_all()
        request = DeleteUserRequest(user_id=self._user_id)
        _, at_once = await self._caller.carried_out(request, deletes=True)
        for book in self._books:
            if not at_once:
                book.retire()  # an attempt may still be carried out
            book.all_deleted()
        is_certain = not any(book.has_doubts for book in self._books)
        self._ledger.users[self._user_id] = False if is_certain else None


async def user_exists(caller: Caller, user_id: str) -> bool:
    """Return whether GetUser finds the user."""
    try:
        await caller.answered(GetUserRequest(user_id=user_id))
    except Refused:
        return False
    return True
