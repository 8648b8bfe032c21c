"""Validation of SearchMemory's request."""

from palaver.v1 import memory_service_pb2 as pb
from palaver_server.search.searcher import Mode, Search
from palaver_server.services.limits import DEFAULT_SEARCH_LIMIT, MAX_LIMIT, MAX_SEARCH_LIMIT
from palaver_server.services.validation import Fields
from palaver_server.store.message_filter import EVERY_MESSAGE, Scope

# The modes by their numbers; 0 is none.
_MODES: dict[int, Mode] = {pb.SearchMemoryRequest.Mode.Value(mode.name): mode for mode in Mode}


def search_from_request(fields: Fields, request: pb.SearchMemoryRequest) -> Search:
    """Check the fields of a request, and return the search."""
    scope, mode = _scope(fields, request), _mode(fields, request.mode)
    text = fields.content("text", request.text)
    return Search(
        text=text,
        scope=scope,
        mode=mode,
        limit=fields.limit(
            "limit",
            request.limit,
            default=DEFAULT_SEARCH_LIMIT,
            maximum=MAX_SEARCH_LIMIT if text.strip() else MAX_LIMIT,
        ),
        filter=(
            fields.message_filter("filter", request)
            if request.HasField("filter")
            else EVERY_MESSAGE
        ),
        min_score=fields.fraction("min_score", request.min_score),
        diversity=fields.fraction("diversity", request.diversity),
        without_payload=request.without_payload,
    )


def _scope(fields: Fields, request: pb.SearchMemoryRequest) -> Scope:
    """Return the scope; an empty one is a violation, because it would search all sessions."""
    match request.WhichOneof("scope"):
        case "session_id":
            return Scope(session_id=fields.id("session_id", request.session_id))
        case "user_id":
            return Scope(user_id=fields.id("user_id", request.user_id))
        case "session_id_prefix":
            prefix = fields.id("session_id_prefix", request.session_id_prefix)
            return Scope(session_id_prefix=prefix)
        case _:
            return Scope()


def _mode(fields: Fields, value: pb.SearchMemoryRequest.Mode.ValueType) -> Mode | None:
    return _MODES.get(fields.enum("mode", value, pb.SearchMemoryRequest.Mode.DESCRIPTOR))
