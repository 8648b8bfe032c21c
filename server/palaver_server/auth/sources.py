"""Sources for hot reload: files, and documents at URLs."""

from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from palaver_server.auth.hot_reload import Source

FILE_POLL_INTERVAL_SECONDS = 1.0
URL_POLL_INTERVAL_SECONDS = 300.0

_FILE_SETTLE_SECONDS = 0.25
_FETCH_TIMEOUT_SECONDS = 5.0
_MAX_DOCUMENT_BYTES = 1024 * 1024


def file_source(name: str, *paths: Path) -> Source:
    """Return a source of files that are read and replaced together."""
    return Source(
        name=f"{name} {' and '.join(map(str, paths))}",
        read=lambda: tuple(path.read_bytes() for path in paths),
        poll_interval_seconds=FILE_POLL_INTERVAL_SECONDS,
        settle_seconds=_FILE_SETTLE_SECONDS,
    )


def url_source(name: str, url: str) -> Source:
    """Return a source that fetches a document from an `http` or `https` URL."""
    # The name has only the host: the rest of the URL may contain a secret.
    host = urlsplit(url).hostname
    return Source(f"{name} of {host}", partial(_fetch, url), URL_POLL_INTERVAL_SECONDS)


class _NoRedirects(HTTPRedirectHandler):
    """Follows no redirect: it could lead from `https` to a server without a certificate."""

    def redirect_request(self, *_args: Any, **_options: Any) -> None:
        return None


_OPENER = build_opener(_NoRedirects)


def _fetch(url: str) -> tuple[bytes, ...]:
    request = Request(url, headers={"accept": "application/json"})  # noqa: S310 - from the settings
    try:
        with _OPENER.open(request, timeout=_FETCH_TIMEOUT_SECONDS) as response:
            content: bytes = response.read(_MAX_DOCUMENT_BYTES + 1)
    except HTTPError as error:
        raise OSError(f"the response must have status 200; got {error.code}") from error
    except HTTPException as error:
        raise OSError("the response is not HTTP, or incomplete") from error
    if len(content) > _MAX_DOCUMENT_BYTES:
        raise OSError(f"the document must have at most {_MAX_DOCUMENT_BYTES:,} bytes")
    return (content,)
