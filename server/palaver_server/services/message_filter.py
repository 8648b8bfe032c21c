"""Validation of the filter of messages."""

from typing import TypeAlias

from palaver.v1 import memory_service_pb2 as pb
from palaver_server.services.validation import Fields
from palaver_server.store.message_filter import EVERY_MESSAGE, MessageFilter

# The requests with a filter of messages.
Request: TypeAlias = (
    pb.GetMemoryRequest | pb.ListMessagesRequest | pb.StreamMessagesRequest | pb.SearchMemoryRequest
)


def message_filter(fields: Fields, request: Request) -> MessageFilter:
    """Check the filter of a request, and return it in the form that the stores take."""
    if not request.HasField("filter"):
        return EVERY_MESSAGE
    given, fields = request.filter, fields.at("filter")
    return MessageFilter(
        roles=fields.roles("roles", given.roles),
        # Stored times are whole microseconds: comparing them to a bound rounded up gives the
        # same result as comparing them to the nanosecond.
        created_after=fields.timestamp("created_after", given, round_up=True),
        created_before=fields.timestamp("created_before", given, round_up=True),
        metadata=fields.path("metadata", given.metadata),
    )
