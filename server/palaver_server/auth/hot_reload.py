"""Values that are read from files and URLs, and read again when their content changes."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

from palaver_server.errors import CredentialsExpired, CredentialsUnusable

_LOGGER = logging.getLogger(__name__)

ValueT = TypeVar("ValueT")


@dataclass(frozen=True, slots=True)
class Source:
    """A file, a group of files, or a URL.

    Attributes:
        name: The name for logs and errors.
        read: Returns the content, and raises OSError.
        poll_interval_seconds: Time between two reads.
        settle_seconds: How long changed content must stay the same before it is used: a
            program may write a file in several steps.
        grace_seconds: How long the last good value stays in use while the source is unreadable
            or invalid.
    """

    name: str
    read: Callable[[], Awaitable[tuple[bytes, ...]]]
    poll_interval_seconds: float
    settle_seconds: float = 0
    grace_seconds: float = float("inf")


class HotReloaded(Generic[ValueT]):
    """A value that follows its source.

    If the source becomes unreadable or its content invalid, the problem is logged and the
    last good value stays in use for the source's grace period.

    Attributes:
        latest: The newest valid value, even after the grace period; another object after the
            source has changed.
    """

    def __init__(
        self, source: Source, parse: Callable[..., ValueT], content: tuple[bytes, ...]
    ) -> None:
        self.latest = parse(*content)
        self._source = source
        self._parse = parse
        self._content = content
        self._problem = ""
        self._expires_at = float("inf")
        self._reloading = asyncio.Lock()

    @classmethod
    async def load(cls, source: Source, parse: Callable[..., ValueT]) -> Self:
        """Read a source for the first time.

        Args:
            source: The source.
            parse: Makes the value from the content. Raises ValueError with a text that
                describes the problem and contains no secret.

        Raises:
            CredentialsUnusable: The source cannot be read, or its content is invalid.
        """
        try:
            return cls(source, parse, await source.read())
        except (OSError, ValueError) as error:
            raise CredentialsUnusable(f"{source.name}: {error}") from error

    @property
    def value(self) -> ValueT:
        """The newest valid value.

        Raises:
            CredentialsExpired: The source has been unusable for longer than the grace period.
        """
        if time.monotonic() >= self._expires_at:
            raise CredentialsExpired
        return self.latest

    @property
    def is_current(self) -> bool:
        """Whether the last reload succeeded."""
        return not self._problem

    async def watch(self) -> None:
        """Reload the value periodically until cancelled."""
        while True:
            await asyncio.sleep(self._source.poll_interval_seconds)
            await self.reload()

    async def reload(self) -> None:
        """Read the source, and replace the value if the content has changed and is valid."""
        async with self._reloading:  # a slow read must not replace what a later one found
            try:
                await self._replace(await self._source.read())
            except (OSError, ValueError) as error:
                self._fail(str(error))
            except Exception as error:  # noqa: BLE001 - one bad content must not end the watch
                self._fail(type(error).__name__)  # the text of another error may contain secrets
            else:
                self._problem = ""
                self._expires_at = float("inf")

    def _fail(self, problem: str) -> None:
        if not self._problem:
            self._expires_at = time.monotonic() + self._source.grace_seconds
        if problem != self._problem:  # log a lasting problem once, not at every read
            _LOGGER.warning(
                "reloading failed: %s: %s; the previous content stays in use%s",
                self._source.name,
                problem,
                self._grace(),
            )
        self._problem = problem

    def _grace(self) -> str:
        seconds = self._expires_at - time.monotonic()
        return "" if seconds == float("inf") else f" for {max(seconds, 0):.0f} s"

    async def _replace(self, content: tuple[bytes, ...]) -> None:
        if content == self._content:
            return
        if self._source.settle_seconds:
            await asyncio.sleep(self._source.settle_seconds)
            if await self._source.read() != content:
                return  # still being written; the next read looks again
        self.latest = self._parse(*content)
        self._content = content
        _LOGGER.info("reloaded: %s: the new content is in use", self._source.name)
