"""Reads the request of SearchMemory."""

from palaver.v1 import memory_service_pb2 as pb
from palaver_server.search.searcher import Mode, Search
from palaver_server.services.validation import Fields
from palaver_server.store.message_filter import MessageFilter, Scope

_DEFAULT_LIMIT = 10
_MAX_LIMIT = 100


def search_from_request(fields: Fields, request: pb.SearchMemoryRequest) -> Search:
    """Checks the fields of the request, and gives what is searched for."""
    return Search(
        text=fields.content("text", request.text),
        scope=_scope(fields, request),
        mode=_mode(fields, request.mode),
        limit=fields.limit("limit", request.limit, default=_DEFAULT_LIMIT, most=_MAX_LIMIT),
        filter=_message_filter(fields.at("filter"), request.filter),
        min_score=fields.fraction("min_score", request.min_score),
        diversity=fields.fraction("diversity", request.diversity),
    )


def _scope(fields: Fields, request: pb.SearchMemoryRequest) -> Scope:
    """One given empty is refused: it would otherwise open the scope to everything."""
    match request.WhichOneof("scope"):
        case "session_id":
            return Scope(session_id=fields.id("session_id", request.session_id))
        case "user_id":
            return Scope(user_id=fields.id("user_id", request.user_id))
        case _:
            return Scope()


def _mode(fields: Fields, value: pb.SearchMemoryRequest.Mode.ValueType) -> Mode | None:
    if value == pb.SearchMemoryRequest.MODE_UNSPECIFIED:
        return None
    if value not in pb.SearchMemoryRequest.Mode.values():
        fields.reject("mode", f"is {value}, which is no mode")
        return None
    return Mode[pb.SearchMemoryRequest.Mode.Name(value)]


def _message_filter(fields: Fields, filter: pb.MessageFilter) -> MessageFilter:
    return MessageFilter(
        roles=fields.roles("roles", filter.roles),
        # Rounded up, whole microseconds compare to them as they do to the nanosecond.
        created_after=fields.timestamp("created_after", filter, round_up=True),
        created_before=fields.timestamp("created_before", filter, round_up=True),
        metadata=fields.path("metadata", filter.metadata),
    )
