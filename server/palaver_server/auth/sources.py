"""Sources for hot reload: files, and documents at URLs."""

import asyncio
import logging
import ssl
from functools import partial
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from palaver_server.auth.hot_reload import Source

FILE_POLL_INTERVAL_SECONDS = 1.0
URL_POLL_INTERVAL_SECONDS = 300.0

_FILE_SETTLE_SECONDS = 0.25

# For the whole document: a server that sends a byte now and then must not hold a fetch open.
_FETCH_TIMEOUT_SECONDS = 10.0
_MAX_DOCUMENT_BYTES = 1024 * 1024


def file_source(name: str, *paths: Path, grace_seconds: float = float("inf")) -> Source:
    """Return a source of files that are read and replaced together."""
    return Source(
        name=f"{name} {' and '.join(map(str, paths))}",
        read=partial(asyncio.to_thread, lambda: tuple(path.read_bytes() for path in paths)),
        poll_interval_seconds=FILE_POLL_INTERVAL_SECONDS,
        settle_seconds=_FILE_SETTLE_SECONDS,
        grace_seconds=grace_seconds,
    )


def url_source(name: str, url: str, *, grace_seconds: float = float("inf")) -> Source:
    """Return a source that fetches a document from an `http` or `https` URL."""
    return Source(
        # Only the host: the rest of the URL may contain a secret.
        name=f"{name} of {urlsplit(url).hostname}",
        read=partial(_fetch, url),
        poll_interval_seconds=URL_POLL_INTERVAL_SECONDS,
        grace_seconds=grace_seconds,
    )


async def _fetch(url: str) -> tuple[bytes, ...]:
    import httpx2  # noqa: PLC0415 - takes long to load

    # httpx2 logs the URL of each request at INFO; a URL may contain a secret.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    # Uncompressed, so that the size limit holds for what is read. A redirect is not followed: it
    # could lead from `https` to a server without a certificate.
    headers = {"accept": "application/json", "accept-encoding": "identity"}
    # The system's authorities, to which operators add their own; httpx2 brings a list of its own.
    client = httpx2.AsyncClient(
        headers=headers, verify=ssl.create_default_context(), timeout=_FETCH_TIMEOUT_SECONDS
    )
    content = bytearray()
    try:
        async with (
            asyncio.timeout(_FETCH_TIMEOUT_SECONDS),
            client,
            client.stream("GET", url) as response,
        ):
            if response.status_code != HTTPStatus.OK:
                raise OSError(f"the response must have status 200; got {response.status_code}")
            async for chunk in response.aiter_raw():
                content += chunk
                if len(content) > _MAX_DOCUMENT_BYTES:
                    raise OSError(f"the document must have at most {_MAX_DOCUMENT_BYTES:,} bytes")
    except TimeoutError:
        raise OSError(f"the document was not complete in {_FETCH_TIMEOUT_SECONDS:g} s") from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        # Without the error's text: it may contain the URL.
        raise OSError(f"the document cannot be fetched: {type(error).__name__}") from error
    return (bytes(content),)
