"""Encoding of search results."""

from palaver.v1.memory_service_pb2 import SearchMemoryRequest, SearchMemoryResponse, SearchResult
from palaver_server.search.searcher import Result, Results
from palaver_server.services.encoding import wire
from palaver_server.services.encoding.encoded import Encoded, with_items
from palaver_server.services.encoding.messages import encode_message

_RESULTS = wire.tag(SearchMemoryResponse, "results")
_MESSAGE = wire.tag(SearchResult, "message")


def encode_search_result(result: Result) -> bytes:
    """Return the bytes of a `SearchResult`."""
    others = SearchResult(session_id=result.session_id, score=result.score, snippet=result.snippet)
    message = wire.delimited(_MESSAGE, encode_message(result.message))
    return message + others.SerializeToString()


def search_response(results: Results) -> Encoded[SearchMemoryResponse]:
    """Return the response of SearchMemory."""
    mode = SearchMemoryRequest.Mode.Value(results.mode.name if results.mode else "MODE_UNSPECIFIED")
    response = SearchMemoryResponse(mode=mode)
    return with_items(
        response,
        _RESULTS,
        encode_search_result,
        results.results,
        metadata_bytes=sum([len(result.message.metadata) for result in results.results]),
    )
