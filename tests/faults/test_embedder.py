"""Searches while the embedder is slow, down, refusing or wrong, and after it has recovered."""

import logging
from collections.abc import Callable

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, RetryInfo

from palaver.v1.memory_service_pb2 import SearchMemoryRequest
from palaver_server.embedding import circuit_breaker
from tests.conftest import StartServer
from tests.support.client import Client, refused, wait_until
from tests.support.endpoint import Endpoint
from tests.support.endpoint_faults import FAULTS, Fault, drip, hang, status
from tests.support.scrapes import metrics_url, scraped
from tests.support.searching import found, search

KEYWORD, SEMANTIC, HYBRID = (
    SearchMemoryRequest.KEYWORD,
    SearchMemoryRequest.SEMANTIC,
    SearchMemoryRequest.HYBRID,
)
MODE_UNSPECIFIED = SearchMemoryRequest.MODE_UNSPECIFIED

# Longer than any search of these tests takes.
LONG_SECONDS = 3600.0


def semantic_search_finds_the_message(palaver: Client) -> bool:
    try:
        return found(palaver, "user: word", mode=SEMANTIC) == ["word"]
    except grpc.RpcError:  # with a short timeout, on a busy machine
        return False


@pytest.fixture
def start(start_server: StartServer, endpoint: Endpoint) -> Callable[..., Client]:
    """Start a server whose one message has its vector."""

    def start(**settings: object) -> Client:
        palaver = start_server(**{**endpoint.settings, **settings})
        palaver.add("s", "word")
        wait_until(lambda: semantic_search_finds_the_message(palaver))
        return palaver

    return start


def searches_use_the_embedder(palaver: Client) -> bool:
    return search(palaver, "word", mode=MODE_UNSPECIFIED).mode == HYBRID


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_search_while_the_embedder_fails_answers_by_keyword_and_recovers(
    start: Callable[..., Client],
    endpoint: Endpoint,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
) -> None:
    monkeypatch.setattr(circuit_breaker, "OPEN_SECONDS", 0)
    is_slow = fault in (hang, drip)
    palaver = start(**{"embedder_query_timeout_seconds": 0.3} if is_slow else {})
    endpoint.fault = fault

    for mode in (MODE_UNSPECIFIED, HYBRID):
        response = search(palaver, "word", mode=mode)
        assert response.mode == KEYWORD
        assert [result.message.content for result in response.results] == ["word"]
    with refused(grpc.StatusCode.UNAVAILABLE) as refusal:
        search(palaver, "word", mode=SEMANTIC)
    assert "embedder" in refusal.status.message
    assert refusal.detail(RetryInfo)

    endpoint.fault = None
    wait_until(lambda: searches_use_the_embedder(palaver))
    wait_until(lambda: semantic_search_finds_the_message(palaver))


def test_search_of_a_refused_text_answers_by_keyword_and_semantic_is_invalid(
    start: Callable[..., Client], endpoint: Endpoint
) -> None:
    palaver = start()
    endpoint.refused = "word"

    for mode in (MODE_UNSPECIFIED, HYBRID):
        assert search(palaver, "word", mode=mode).mode == KEYWORD
    for _ in range(5):  # a text that is refused says nothing about the embedder
        with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
            search(palaver, "word", mode=SEMANTIC)
    assert refusal.detail(BadRequest).field_violations[0].field == "text"

    assert search(palaver, "another", mode=HYBRID).mode == HYBRID


def test_search_of_a_missing_session_while_the_embedder_fails_is_not_found(
    start: Callable[..., Client], endpoint: Endpoint
) -> None:
    palaver = start()
    endpoint.fault = status(503)

    for mode in (MODE_UNSPECIFIED, HYBRID, SEMANTIC):
        with refused(grpc.StatusCode.NOT_FOUND):
            search(palaver, "word", mode=mode, session_id="missing")


def test_search_after_repeated_failures_does_not_ask_the_embedder(
    start: Callable[..., Client],
    endpoint: Endpoint,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(circuit_breaker, "OPEN_SECONDS", LONG_SECONDS)
    caplog.set_level(logging.INFO)
    palaver = start()
    endpoint.fault = status(503)
    for _ in range(3):
        assert search(palaver, "word", mode=HYBRID).mode == KEYWORD
    sent = len(endpoint.requests)
    endpoint.fault = None

    assert search(palaver, "word", mode=HYBRID).mode == KEYWORD
    with refused(grpc.StatusCode.UNAVAILABLE) as refusal:
        search(palaver, "word", mode=SEMANTIC)
    assert "HTTP 503" in refusal.status.message
    assert len(endpoint.requests) == sent
    assert caplog.text.count("the embedder keeps failing") == 1


def test_search_probes_a_failing_embedder_one_search_at_a_time(
    start: Callable[..., Client], endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    palaver = start()
    endpoint.fault = status(503)
    monkeypatch.setattr(circuit_breaker, "OPEN_SECONDS", 0)
    for _ in range(3):
        search(palaver, "word", mode=HYBRID)
    sent = len(endpoint.requests)
    monkeypatch.setattr(circuit_breaker, "OPEN_SECONDS", LONG_SECONDS)

    for _ in range(3):
        assert search(palaver, "word", mode=HYBRID).mode == KEYWORD

    assert len(endpoint.requests) == sent + 1


def test_search_with_deadlines_below_the_embedders_timeout_stops_asking_too(
    start: Callable[..., Client], endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that ends before the embedder's timeout counts as a failure all the same."""
    monkeypatch.setattr(circuit_breaker, "OPEN_SECONDS", LONG_SECONDS)
    palaver = start(embedder_query_timeout_seconds=0.5)
    endpoint.fault = hang
    request = SearchMemoryRequest(text="word")
    for _ in range(3):
        with pytest.raises(grpc.RpcError):
            palaver.memory.SearchMemory(request, timeout=0.1)

    def is_answered_unasked() -> bool:
        sent = len(endpoint.requests)
        return (
            search(palaver, "word", mode=HYBRID).mode == KEYWORD and len(endpoint.requests) == sent
        )

    wait_until(is_answered_unasked)


def test_search_embeds_only_the_beginning_of_a_long_text(
    start: Callable[..., Client], endpoint: Endpoint
) -> None:
    palaver = start()

    assert search(palaver, "word " * 200_000, mode=HYBRID).mode == HYBRID

    assert max(map(len, endpoint.texts)) == 8000


def test_metrics_count_searches_answered_without_the_embedder(
    start: Callable[..., Client], endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    palaver = start(metrics_listen="127.0.0.1:0")
    url = metrics_url(caplog.text)
    search(palaver, "word", mode=HYBRID)
    assert scraped(url).value("palaver_search_fallbacks_total") == 0
    endpoint.fault = status(503)

    search(palaver, "word", mode=MODE_UNSPECIFIED)
    search(palaver, "word", mode=HYBRID)
    search(palaver, "word", mode=KEYWORD)
    with refused(grpc.StatusCode.UNAVAILABLE):
        search(palaver, "word", mode=SEMANTIC)

    assert scraped(url).value("palaver_search_fallbacks_total") == 2
