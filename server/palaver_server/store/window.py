"""The window of a session: the newest messages that pass a filter and fit the limits of a request.

A window that is not the end of the session is chosen in two steps: `choose_messages` decides by the
roles and sizes of the candidates, and only the chosen messages are read.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import accumulate
from typing import NamedTuple, TypeVar

from palaver_server.database.paging import MAX_PAGE_BYTES
from palaver_server.store.message_filter import EVERY_MESSAGE, MessageFilter
from palaver_server.store.messages import MessageRow

MAX_PINNED = 16

# The roles that the index `messages_rare_roles` leaves out.
COMMON_ROLES = "('user', 'assistant')"


class Window(NamedTuple):
    """The limits of a window.

    Attributes:
        last_n: Maximum number of messages, pinned ones included; 0 for none.
        max_tokens: Maximum number of tokens, pinned messages included; 0: no limit.
        start_roles: The roles that the window may start at; empty: any.
        pinned_roles: The roles whose newest messages are chosen though they are older.
        filter: The messages to choose from.
        without_payload: Whether to return the messages without their payloads.
    """

    last_n: int
    max_tokens: int = 0
    start_roles: Sequence[str] = ()
    pinned_roles: Sequence[str] = ()
    filter: MessageFilter = EVERY_MESSAGE
    without_payload: bool = False

    @property
    def is_suffix(self) -> bool:
        """Whether it is the end of the session's messages."""
        return self.last_n > 0 and not self.pinned_roles and self.filter == EVERY_MESSAGE


class Candidate(NamedTuple):
    """A message that a window may have; the size of its tokens is in quarters of a token."""

    sequence: int
    role: str
    quarters: int
    size: int


MessageT = TypeVar("MessageT", Candidate, MessageRow)


# The tokens of a message, in quarters. Without a token count, a Chinese, Japanese or Korean
# character counts as a token, any other as a quarter of one. ASCII, and what exceeds the limit in
# any case, needs no look at the characters. The ranges are those of Unicode's blocks.
QUARTER_TOKENS = """
    CASE
        WHEN %(max_tokens)s = 0 THEN 0
        WHEN token_count > 0 THEN 4 * token_count::bigint
        WHEN octet_length(content) = char_length(content)
            OR char_length(content) > 4 * %(max_tokens)s::bigint THEN char_length(content)
        ELSE char_length(content) + 3 * regexp_count(content, '[\\u1100-\\u11FF\\u3000-\\u31FF'
            '\\u3400-\\u4DBF\\u4E00-\\u9FFF\\uA960-\\uA97F\\uAC00-\\uD7FF\\uF900-\\uFAFF'
            '\\uFF00-\\uFFEF\\U00020000-\\U0003FFFF]')
    END
"""


def choose_messages(
    candidates: Sequence[Candidate], window: Window, *, max_bytes: int = MAX_PAGE_BYTES
) -> list[int]:
    """Choose the messages of a window.

    Args:
        candidates: The newest `last_n` messages or more, and of those older than these the newest
            MAX_PINNED with pinned roles, if there are so many; newest first.
        window: Its limits.
        max_bytes: Maximum size of the messages.

    Returns:
        The chosen messages' sequences, oldest first.
    """
    pinned = [number for number, one in enumerate(candidates) if one.role in window.pinned_roles]

    def pinned_from(number: int) -> list[int]:
        first = bisect_left(pinned, number)
        return pinned[first : first + MAX_PINNED]

    older = _fitting([candidates[number] for number in pinned_from(0)], window, max_bytes)
    chosen = pinned[: len(older)]
    # A longer window never chooses less in all: what it takes in was pinned before, or is added.
    length, newest = 0, _NOTHING
    for longer, candidate in enumerate(candidates[: window.last_n], start=1):
        newest = newest.plus(candidate)
        pinned_older = pinned_from(longer)
        total = _sum((candidates[number] for number in pinned_older), newest)
        if not total.fits(window, max_bytes):
            break
        length, chosen = longer, [*range(longer), *pinned_older]
    start = len(starting_at(candidates[:length], window.start_roles))
    still_pinned = [number for number in pinned_from(start) if number in chosen]
    return [candidates[number].sequence for number in reversed([*range(start), *still_pinned])]


def starting_at(messages: Sequence[MessageT], roles: Sequence[str]) -> Sequence[MessageT]:
    """Return the messages, newest first, up to the oldest one that has one of these roles."""
    if not roles:
        return messages
    length = len(messages)
    while length and messages[length - 1].role not in roles:
        length -= 1
    return messages[:length]


class _Total(NamedTuple):
    """The number of messages, and their tokens and sizes together."""

    messages: int = 0
    quarters: int = 0
    size: int = 0

    def plus(self, message: Candidate) -> "_Total":
        return _Total(self.messages + 1, self.quarters + message.quarters, self.size + message.size)

    def fits(self, window: Window, max_bytes: int) -> bool:
        return (
            self.messages <= window.last_n
            and (window.max_tokens == 0 or self.quarters <= 4 * window.max_tokens)
            and self.size <= max_bytes
        )


_NOTHING = _Total()


def _sum(messages: Iterable[Candidate], start: _Total) -> _Total:
    return reduce(_Total.plus, messages, start)


def _fitting(messages: Sequence[Candidate], window: Window, max_bytes: int) -> Sequence[Candidate]:
    """Return the first of these messages that fit the limits together."""
    totals = accumulate(messages, _Total.plus, initial=_NOTHING)
    return messages[: sum(1 for total in totals if total.fits(window, max_bytes)) - 1]
