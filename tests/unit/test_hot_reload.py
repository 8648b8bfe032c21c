"""Hot reload: a value follows its source once two reads return the same valid content."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from palaver_server.auth.hot_reload import HotReloaded, Source
from palaver_server.errors import CredentialsExpired, CredentialsUnusable


def parse(content: bytes) -> str:
    if not content:
        raise ValueError("is empty")
    return content.decode()


def reloaded_after(*contents: bytes | OSError, settle_seconds: float = 0) -> list[str]:
    """Yield the value after each reload of a source with these contents one by one."""
    coming: Iterator[bytes | OSError] = iter(contents)
    ended = False

    async def read() -> tuple[bytes, ...]:
        nonlocal ended
        content = next(coming, None)
        if content is None:
            ended = True
            raise OSError("the contents are used up")
        if isinstance(content, OSError):
            raise content
        return (content,)

    async def follow() -> list[str]:
        source = Source("the source", read, poll_interval_seconds=1, settle_seconds=settle_seconds)
        reloaded = await HotReloaded.load(source, parse)
        values = [reloaded.value]
        while True:
            await reloaded.reload()
            if ended:
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


def test_hot_reload_unforeseen_error_keeps_value_and_is_logged_unquoted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    content = b"a"

    async def read() -> tuple[bytes, ...]:
        return (content,)

    def parse_or_break(content: bytes) -> str:
        if content == b"secret":
            raise AssertionError(content)
        return content.decode()

    async def follow() -> None:
        nonlocal content
        reloaded = await HotReloaded.load(Source("the source", read, 1), parse_or_break)
        content = b"secret"
        await reloaded.reload()
        assert reloaded.value == "a"
        content = b"b"
        await reloaded.reload()
        assert reloaded.value == "b"

    asyncio.run(follow())

    assert "the source: AssertionError" in caplog.text
    assert "secret" not in caplog.text


async def fail_until_expired(reloaded: HotReloaded[str]) -> None:
    """Fail to reload until the value expires: further failures must not prolong the grace."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        assert reloaded.value == "a"
        await reloaded.reload()


def test_hot_reload_grace_counts_from_first_failure_and_ends_with_success() -> None:
    content = b"a"

    async def read() -> tuple[bytes, ...]:
        return (content,)

    async def follow() -> None:
        nonlocal content
        source = Source("the source", read, 1, grace_seconds=0.05)
        reloaded = await HotReloaded.load(source, parse)
        content = b""
        await reloaded.reload()
        with pytest.raises(CredentialsExpired):
            await fail_until_expired(reloaded)
        assert not reloaded.is_current
        content = b"a"
        await reloaded.reload()
        assert reloaded.value == "a"
        assert reloaded.is_current

    asyncio.run(follow())
