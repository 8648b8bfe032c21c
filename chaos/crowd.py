"""Callers who write to the same session at the same time."""

from random import Random

from chaos import writes
from chaos.caller import Caller
from chaos.ledger import Ledger
from chaos.reads import EVERY_READ, WORD
from palaver.v1.memory_pb2 import Message
from tests.support.model.book import Book


class Crowd:
    """One session at a time with many writers; a full session is replaced by a new one.

    Different tasks may call different methods at the same time. No task deletes the session.

    Args:
        deletes: Delete messages. Otherwise the sequences of the session must have no gaps.
    """

    def __init__(self, caller: Caller, ledger: Ledger, random: Random, *, deletes: bool) -> None:
        self._caller = caller
        self._ledger = ledger
        self._random = random
        self._deletes = deletes
        self._book = ledger.open_book()

    async def add(self) -> None:
        """Add messages with ids."""
        await writes.add(self._caller, self._open_book(), self._messages(have_ids=True))

    async def add_next(self) -> None:
        """Add messages unless others were added meanwhile."""
        messages = self._messages(have_ids=self._random.random() < 0.5)
        await writes.add_next(self._caller, self._open_book(), messages)

    async def add_without_ids(self) -> None:
        """Add messages without ids."""
        await writes.add_without_ids(self._caller, self._open_book(), self._messages())

    async def merge(self) -> None:
        """Merge a new key into the metadata."""
        book = self._open_book()
        if book.exists:
            await writes.merge(self._caller, book, self._ledger.new_name())

    async def read(self) -> None:
        """Read the session by a random RPC."""
        await self._random.choice(EVERY_READ)(self._caller, self._open_book(), self._random)

    async def delete(self) -> None:
        """Delete a message, if this crowd deletes. Only one task may call this."""
        book = self._open_book()
        if self._deletes and book.live:
            name = self._random.choice(list(book.live))
            await writes.delete_messages(self._caller, book, [name])

    def _open_book(self) -> Book:
        if self._book.is_full:
            self._book = self._ledger.open_book()
        return self._book

    def _messages(self, *, have_ids: bool = False) -> list[Message]:
        names = [self._ledger.new_name() for _ in range(self._random.randint(1, 3))]
        return [
            Message(message_id=name if have_ids else "", role="user", content=f"{name} {WORD}")
            for name in names
        ]
