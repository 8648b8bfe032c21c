"""Hot reload: a value follows its source once the source is valid and unchanged for a look."""

import asyncio
from collections.abc import Iterator

import pytest

from palaver_server.auth.hot_reload import HotReloaded, Source
from palaver_server.errors import CredentialsUnusable


def parse(content: bytes) -> str:
    if not content:
        raise ValueError("is empty")
    return content.decode()


class EndOfTest(Exception):
    """The contents are used up."""


def reloaded_after(*contents: bytes | OSError, settle_seconds: float = 0) -> list[str]:
    """Yield the value after each reload of a source with these contents one by one."""
    coming: Iterator[bytes | Exception] = iter([*contents, EndOfTest()])

    def read() -> tuple[bytes, ...]:
        content = next(coming)
        if isinstance(content, Exception):
            raise content
        return (content,)

    async def follow() -> list[str]:
        source = Source("the source", read, poll_interval_seconds=1, settle_seconds=settle_seconds)
        reloaded = await HotReloaded.load(source, parse)
        values = [reloaded.value]
        while True:
            try:
                await reloaded.reload()
            except EndOfTest:
                return values
            values.append(reloaded.value)

    return asyncio.run(follow())


def test_hot_reload_keeps_newest_valid_content() -> None:
    assert reloaded_after(b"a", b"a", b"b", b"", OSError("gone"), b"c") == list("aabbbc")


def test_hot_reload_takes_content_read_twice_the_same() -> None:
    # The second look at new content finds more of it, and the third finds it complete.
    assert reloaded_after(
        b"a", b"whole"[:2], b"whole", b"whole", b"whole", settle_seconds=1e-6
    ) == [
        "a",
        "a",
        "whole",
    ]


@pytest.mark.parametrize("content", [b"", OSError("gone")])
def test_hot_reload_start_without_valid_content_is_refused(content: bytes | OSError) -> None:
    with pytest.raises(CredentialsUnusable, match=r"^the source: (is empty|gone)$"):
        reloaded_after(content)


def test_hot_reload_problem_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    reloaded_after(b"a", b"", b"", b"", b"a", b"")

    assert caplog.text.count("the source: is empty") == 2
