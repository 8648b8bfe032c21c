"""What files and URLs say, read again when they change."""

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
    """Where something is read.

    Attributes:
        name: For logs and errors.
        read: Reads it, and may block. Raises OSError.
        interval: Seconds between two looks at it.
        settle_seconds: How long new content must stay the same before it is taken: who
            writes a file may not have done so in one go.
    """

    name: str
    read: Callable[[], tuple[bytes, ...]]
    interval: float
    settle_seconds: float = 0


class Reloaded(Generic[ValueT]):
    """A value that follows its source. Content that is no good is logged, and the value kept.

    Attributes:
        value: The value; another object once the source has changed.
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
        """Reads a source for the first time.

        Args:
            source: Where to read.
            parse: Makes the value of what was read. Raises ValueError, whose text tells
                what is wrong and nothing secret.

        Raises:
            CredentialsUnusable: It cannot be read, or is no good.
        """
        try:
            return cls(source, parse, await asyncio.to_thread(source.read))
        except (OSError, ValueError) as error:
            raise CredentialsUnusable(f"{source.name}: {error}") from error

    async def watch(self) -> None:
        """Follows the source for ever."""
        while True:
            await asyncio.sleep(self._source.interval)
            await self.reload()

    async def reload(self) -> None:
        """Reads the source again, and takes over what it says if that has changed and is good."""
        try:
            await self._take(await asyncio.to_thread(self._source.read))
            self._problem = ""
        except (OSError, ValueError) as error:
            if str(error) != self._problem:  # said once, not at every look
                _LOGGER.warning(
                    "%s: %s; what was read before stays in use", self._source.name, error
                )
            self._problem = str(error)

    async def _take(self, content: tuple[bytes, ...]) -> None:
        if content == self._content:
            return
        if self._source.settle_seconds:
            await asyncio.sleep(self._source.settle_seconds)
            if await asyncio.to_thread(self._source.read) != content:
                return  # at the next look, then
        self.value = self._parse(*content)
        self._content = content
        _LOGGER.info("%s: read again, and in use", self._source.name)
