"""Reads files, and documents from the web."""

from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from palaver_server.auth.hot_reload import Source

SECONDS_BETWEEN_LOOKS_AT_FILES = 1.0
SECONDS_BETWEEN_FETCHES = 300.0

_SECONDS_TO_SETTLE = 0.25
_SECONDS_TO_FETCH = 5.0
_MAX_BYTES = 1024 * 1024


def files(name: str, *paths: Path) -> Source:
    """The contents of files that belong together."""
    return Source(
        name=f"{name} {' and '.join(map(str, paths))}",
        read=lambda: tuple(path.read_bytes() for path in paths),
        interval=SECONDS_BETWEEN_LOOKS_AT_FILES,
        settle_seconds=_SECONDS_TO_SETTLE,
    )


def document(name: str, url: str) -> Source:
    """A document at an `http` or `https` URL."""
    # Named by the host alone: the rest may have a secret in it.
    host = urlsplit(url).hostname
    return Source(f"{name} of {host}", partial(_fetch, url), SECONDS_BETWEEN_FETCHES)


class _NoRedirects(HTTPRedirectHandler):
    """Follows none: a redirect could lead from `https` to where anybody may answer."""

    def redirect_request(self, *_args: Any, **_options: Any) -> None:
        return None


_OPENER = build_opener(_NoRedirects)


def _fetch(url: str) -> tuple[bytes, ...]:
    request = Request(url, headers={"accept": "application/json"})  # noqa: S310 - of the settings
    try:
        with _OPENER.open(request, timeout=_SECONDS_TO_FETCH) as response:
            content: bytes = response.read(_MAX_BYTES + 1)
    except HTTPError as error:
        raise OSError(f"the answer is {error.code}") from error
    except HTTPException as error:
        raise OSError("the answer is not HTTP, or broke off") from error
    if len(content) > _MAX_BYTES:
        raise OSError(f"has more than {_MAX_BYTES:,} bytes")
    return (content,)
