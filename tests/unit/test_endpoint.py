"""The embedder of an HTTP endpoint, against an endpoint on this machine."""

import asyncio
import logging
import math
import socket
import tracemalloc
from typing import Any

import pytest

from palaver_server.embedding.embedders.embedder import normalized
from palaver_server.embedding.embedders.endpoint import EndpointEmbedder
from palaver_server.errors import EmbedderUnavailable, TextsRefused
from tests.conftest import Run
from tests.support.endpoint import DIMENSIONS, Endpoint, vector_of
from tests.support.endpoint_faults import FAULTS, Fault, endless, gzip_bomb, hang


def assert_is(vector: Any, text: str, dimensions: int = DIMENSIONS) -> None:
    assert len(vector) == dimensions
    assert vector == pytest.approx(normalized(vector_of(text)[:dimensions]), abs=1e-6)


@pytest.mark.parametrize("in_base64", [True, False])
def test_endpoint_returns_vector_per_text(run: Run, endpoint: Endpoint, *, in_base64: bool) -> None:
    endpoint.in_base64 = in_base64

    one, other = run(endpoint.embedder().embed(["one", "the other"]))

    assert_is(one, "one")
    assert_is(other, "the other")
    (request,) = endpoint.requests
    assert request["model"] == "test"


def test_endpoint_vectors_are_cut_and_normalized(run: Run, endpoint: Endpoint) -> None:
    (vector,) = run(endpoint.embedder(dimensions=3).embed(["text"]))

    assert_is(vector, "text", 3)
    assert math.isclose(math.hypot(*vector), 1)


def test_endpoint_key_is_sent_as_bearer_token(run: Run, endpoint: Endpoint) -> None:
    run(endpoint.embedder(key="Sesame").embed(["text"]))
    run(endpoint.embedder().embed(["text"]))

    assert endpoint.keys == ["Bearer Sesame", None]


@pytest.mark.parametrize("status", [301, 401, 403, 404, 408, 409, 429, 500, 502, 503])
def test_endpoint_error_not_caused_by_text_is_temporary(
    run: Run, endpoint: Endpoint, status: int
) -> None:
    endpoint.status = status

    with pytest.raises(EmbedderUnavailable, match=str(status)):
        run(endpoint.embedder().embed(["text"]))


@pytest.mark.parametrize("status", [400, 413, 422])
def test_endpoint_refusing_everything_refuses_no_text(
    run: Run, endpoint: Endpoint, status: int
) -> None:
    endpoint.status = status

    with pytest.raises(EmbedderUnavailable, match=str(status)):
        run(endpoint.embedder().embed(["text"]))


def test_endpoint_refusing_one_text_refuses_that_text(run: Run, endpoint: Endpoint) -> None:
    endpoint.refused = "too long"

    with pytest.raises(TextsRefused):
        run(endpoint.embedder().embed(["text", "far too long"]))


@pytest.mark.parametrize(
    "answer",
    [
        "no JSON",
        "[]",
        '{"data": []}',
        '{"data": [{"index": 1, "embedding": [1, 1, 1, 1, 1, 1, 1, 1]}]}',
        '{"data": [{"index": 0, "embedding": [1, 1]}]}',
        '{"data": [{"index": 0, "embedding": [0, 0, 0, 0, 0, 0, 0, 0]}]}',
        '{"data": [{"index": 0, "embedding": [NaN, 0, 0, 0, 0, 0, 0, 0]}]}',
        '{"data": [{"index": 0, "embedding": ["1", 0, 0, 0, 0, 0, 0, 0]}]}',
        '{"data": [{"index": 0, "embedding": "no base 64"}]}',
        '{"data": [{"index": 0, "embedding": "AAAA"}]}',
        '{"data": [{"index": 0}]}',
    ],
)
def test_endpoint_malformed_answer_is_refused(run: Run, endpoint: Endpoint, answer: str) -> None:
    endpoint.answer = answer.encode()

    with pytest.raises(EmbedderUnavailable, match="1 vectors of at least 8 numbers"):
        run(endpoint.embedder().embed(["text"]))


def test_endpoint_unreachable_or_silent_is_unavailable(run: Run, endpoint: Endpoint) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
    unreachable = EndpointEmbedder(url=url, model="m", key="", dimensions=8, timeout=5)
    with pytest.raises(EmbedderUnavailable):
        run(unreachable.embed(["text"]))

    endpoint.hold()
    with pytest.raises(EmbedderUnavailable):
        run(endpoint.embedder(timeout=0.1).embed(["text"]))


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_endpoint_that_fails_is_unavailable(run: Run, endpoint: Endpoint, fault: Fault) -> None:
    endpoint.fault = fault

    with pytest.raises(EmbedderUnavailable, match="the embedder's endpoint"):
        run(endpoint.embedder(timeout=0.3).embed(["text"]))


@pytest.mark.slow
@pytest.mark.parametrize("fault", [endless, gzip_bomb])
def test_endpoint_oversized_answer_is_not_read_into_memory(
    run: Run, endpoint: Endpoint, fault: Fault
) -> None:
    endpoint.fault = fault
    embedder = endpoint.embedder()
    tracemalloc.start()
    try:
        with pytest.raises(EmbedderUnavailable):
            run(embedder.embed(["text"]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 16 * 1024 * 1024


def test_endpoint_after_cancelled_requests_has_its_connections(
    run: Run, endpoint: Endpoint
) -> None:
    """Cancelled requests release their connections, of which the client opens up to 100."""
    embedder = endpoint.embedder()
    endpoint.fault = hang

    async def cancel_requests() -> None:
        requests = [asyncio.create_task(embedder.embed(["text"])) for _ in range(120)]
        for _ in range(100):
            await asyncio.to_thread(endpoint.wait_until_asked)
        for request in requests:
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)

    run(cancel_requests())
    endpoint.fault = None

    (vector,) = run(embedder.embed(["text"]))
    assert_is(vector, "text")


def test_endpoint_errors_and_logs_show_no_key_text_or_url(
    run: Run, endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    endpoint.refused = "private"
    embedder = EndpointEmbedder(
        url=endpoint.url.replace("//", "//user:hidden@"),
        model="test", key="Sesame", dimensions=8, timeout=5,
    )  # fmt: skip

    run(embedder.embed(["text"]))
    with pytest.raises(TextsRefused) as raised:
        run(embedder.embed(["private text"]))

    seen = str(raised.value) + caplog.text
    for secret in ("Sesame", "private", "hidden"):
        assert secret not in seen


def test_endpoint_is_asked_for_base64(run: Run, endpoint: Endpoint) -> None:
    """Base64 is parsed faster than decimal numbers, and the event loop waits for it."""
    run(endpoint.embedder().embed(["text"]))

    assert endpoint.requests[0]["encoding_format"] == "base64"
