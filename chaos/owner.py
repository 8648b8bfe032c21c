"""A caller that is the only writer of a session, and so knows exactly what reads return."""

from collections.abc import Awaitable, Callable
from random import Random

from chaos import writes
from chaos.caller import Caller
from chaos.ledger import Ledger
from chaos.reads import EVERY_READ, WORD
from tests.support.model.expected import BrokenPromise

_MAX_MESSAGES = 4


class Owner:
    """Makes one call after the other for a session: adds, changes, deletes and reads.

    It deletes sessions and restores them, and uses deleted ids again. When a session is full,
    or its further state is uncertain, the owner begins another one.
    """

    def __init__(self, caller: Caller, ledger: Ledger, random: Random) -> None:
        self._caller = caller
        self._ledger = ledger
        self._random = random
        self._begin()

    async def step(self) -> None:
        """Make the next call."""
        if self._book.is_full:
            self._begin()
        try:
            await self._random.choice(self._choices())()
        except BrokenPromise:
            self._begin()
            raise

    def _begin(self) -> None:
        self._book = self._ledger.open_book()
        self._reusable: list[str] = []

    def _choices(self) -> list[Callable[[], Awaitable[object]]]:
        choices: list[Callable[[], Awaitable[object]]] = [
            self._add,
            self._add,
            self._read,
            self._read,
            self._read,
            self._read,
        ]
        if self._book.live:
            choices += [self._add_again, self._update, self._delete_messages]
        if self._book.live and self._book.is_certain:
            choices.append(self._pop)
        if self._book.exists:
            choices.append(self._delete_session)
        return choices

    async def _add(self) -> None:
        names = [self._ledger.new_name() for _ in range(self._random.randint(1, _MAX_MESSAGES))]
        if self._reusable and self._random.random() < 0.5:
            names.append(self._reusable.pop())
        await writes.add(self._caller, self._book, [f"{name} {WORD}" for name in names])

    async def _add_again(self) -> None:
        """Send a message again: unchanged, as a retry does, or changed."""
        content = self._book.content_of(self._any_live())
        await writes.add(self._caller, self._book, [content + self._random.choice(("", " again"))])

    async def _update(self) -> None:
        content = self._book.content_of(self._any_live())
        await writes.update_message(self._caller, self._book, f"{content} again")

    def _any_live(self) -> str:
        return self._random.choice(list(self._book.live))

    async def _read(self) -> None:
        await self._random.choice(EVERY_READ)(self._caller, self._book, self._random)

    async def _delete_messages(self) -> None:
        count = min(len(self._book.live), self._random.randint(1, _MAX_MESSAGES))
        names = self._random.sample(list(self._book.live), count)
        if await writes.delete_messages(self._caller, self._book, names):
            self._reusable += self._book.gone.intersection(names)

    async def _pop(self) -> None:
        await writes.pop(self._caller, self._book)

    async def _delete_session(self) -> None:
        await writes.delete_session(self._caller, self._book, self._random)
