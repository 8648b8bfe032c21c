"""Values that are read from files and URLs, and read again when their content changes."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

from palaver_server.errors import CredentialsUnusable

_LOGGER = logging.getLogger(__name__)

ValueT = TypeVar("ValueT")


@dataclass(frozen=True, slots=True)
class Source:
    """A file, a group of files, or a URL.

    Attributes:
        name: The name for logs and errors.
        read: Returns the content; may block, and raises OSError.
        poll_interval_seconds: Time between two reads.
        settle_seconds: How long changed content must stay the same before it is used: a
            program may write a file in several steps.
    """

    name: str
    read: Callable[[], tuple[bytes, ...]]
    poll_interval_seconds: float
    settle_seconds: float = 0


class HotReloaded(Generic[ValueT]):
    """A value that follows its source.

    If the source becomes unreadable or its content invalid, the problem is logged and the
    last good value stays in use.

    Attributes:
        value: The current value; another object after the source has changed.
    """

    def __init__(
        self, source: Source, parse: Callable[..., ValueT], content: tuple[bytes, ...]
    ) -> None:
        self.value = parse(*content)
        self._source = source
        self._parse = parse
        self._content = content
        self._problem = ""

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
            return cls(source, parse, await asyncio.to_thread(source.read))
        except (OSError, ValueError) as error:
            raise CredentialsUnusable(f"{source.name}: {error}") from error

    async def watch(self) -> None:
        """Reload the value periodically until cancelled."""
        while True:
            await asyncio.sleep(self._source.poll_interval_seconds)
            await self.reload()

    async def reload(self) -> None:
        """Read the source, and replace the value if the content has changed and is valid."""
        try:
            await self._replace(await asyncio.to_thread(self._source.read))
            self._problem = ""
        except (OSError, ValueError) as error:
            if str(error) != self._problem:  # log a lasting problem once, not at every read
                _LOGGER.warning(
                    "reloading failed: %s: %s; the previous content stays in use",
                    self._source.name,
                    error,
                )
            self._problem = str(error)

    async def _replace(self, content: tuple[bytes, ...]) -> None:
        if content == self._content:
            return
        if self._source.settle_seconds:
            await asyncio.sleep(self._source.settle_seconds)
            if await asyncio.to_thread(self._source.read) != content:
                return  # still being written; the next read looks again
        self.value = self._parse(*content)
        self._content = content
        _LOGGER.info("reloaded: %s: the new content is in use", self._source.name)
