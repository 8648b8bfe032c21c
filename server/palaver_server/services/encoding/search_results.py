"""Encoding of search results."""

from collections.abc import Sequence

from palaver.v1.memory_service_pb2 import SearchMemoryRequest, SearchMemoryResponse, SearchResult
from palaver_server.search.searcher import Result, Results
from palaver_server.services.encoding import wire
from palaver_server.services.encoding.encoded import Encoded, with_items
from palaver_server.services.encoding.messages import encode_messages
from palaver_server.services.encoding.wire import varint

_RESULTS = wire.tag(SearchMemoryResponse, "results")
_MESSAGE = wire.tag(SearchResult, "message")


def encode_search_results(results: Sequence[Result]) -> list[bytes]:
    """Return the bytes of each `SearchResult`."""
    messages = encode_messages([result.message for result in results])
    return [_encode(*each) for each in zip(results, messages, strict=True)]


def _encode(result: Result, message: bytes) -> bytes:
    others = SearchResult(session_id=result.session_id, score=result.score, snippet=result.snippet)
    return b"".join((_MESSAGE, varint(len(message)), message, others.SerializeToString()))


def search_response(results: Results) -> Encoded[SearchMemoryResponse]:
    """Return the response of SearchMemory."""
    mode = SearchMemoryRequest.Mode.Value(results.mode.name if results.mode else "MODE_UNSPECIFIED")
    response = SearchMemoryResponse(mode=mode)
    return with_items(
        response,
        _RESULTS,
        encode_search_results,
        results.results,
        metadata_bytes=sum([len(result.message.metadata) for result in results.results]),
    )
