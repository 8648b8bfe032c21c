"""Changes of metadata, by the modes of `MetadataMode`."""

from typing import Any, NamedTuple, TypeAlias

from palaver.v1 import memory_service_pb2, session_service_pb2, user_service_pb2
from palaver.v1.metadata_pb2 import MetadataMode
from palaver_server.services.encoding.metadata import object_from_json, sorted_json
from palaver_server.services.limits import MAX_METADATA_BYTES
from palaver_server.services.validation import Fields

# The requests that change metadata.
Request: TypeAlias = (
    session_service_pb2.UpdateSessionRequest
    | user_service_pb2.UpdateUserRequest
    | memory_service_pb2.UpdateMessageRequest
)


class MetadataChange(NamedTuple):
    """A change of metadata.

    Attributes:
        given: The metadata of the request; None: no change.
        mode: How it changes the current metadata.
        field: The field of the request with the metadata.
        max_bytes: Maximum size of the result as JSON.
    """

    given: dict[str, Any] | None
    mode: MetadataMode.ValueType = MetadataMode.METADATA_MODE_MERGE_PATCH
    field: str = "metadata"
    max_bytes: int = MAX_METADATA_BYTES

    def apply(self, metadata: str) -> str:
        """Return the changed metadata; the same text if nothing changes.

        Args:
            metadata: The current metadata as JSON.

        Raises:
            InvalidRequest: The result exceeds the maximum size of metadata.
        """
        if self.given is None:
            return metadata
        current = object_from_json(metadata)
        changed = self._changed(current, self.given)
        if sorted_json(changed) == sorted_json(current):
            return metadata
        with Fields(max_metadata_bytes=self.max_bytes) as fields:
            return fields.metadata_json(self.field, changed)

    def _changed(self, current: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        match self.mode:
            case MetadataMode.METADATA_MODE_REPLACE:
                return given
            case MetadataMode.METADATA_MODE_TOP_LEVEL:
                return {**current, **given}
            case _:
                return merge_patch(current, given)


def metadata_change(fields: Fields, request: Request) -> MetadataChange:
    """Check the metadata of a request and its mode, and return the change."""
    given = fields.metadata_patch("metadata", request)
    mode = fields.enum("metadata_mode", request.metadata_mode, MetadataMode.DESCRIPTOR)
    replaces = getattr(request, "replace_metadata", False)  # UpdateMessage has none
    merging = (MetadataMode.METADATA_MODE_MERGE_PATCH, MetadataMode.METADATA_MODE_TOP_LEVEL)
    if replaces and mode in merging:
        fields.reject(
            "replace_metadata",
            f"must be false if metadata_mode is {MetadataMode.Name(mode)}; got true",
        )
    return MetadataChange(
        given,
        MetadataMode.METADATA_MODE_REPLACE if replaces else mode,
        max_bytes=fields.max_metadata_bytes,
    )


def metadata_change_in(
    fields: Fields, request: memory_service_pb2.AddMemoryRequest, field: str
) -> MetadataChange | None:
    """Check the metadata in a field of AddMemory's request; return None if there is none."""
    given = fields.metadata_patch(field, request)
    mode_field = f"{field}_mode"
    mode = fields.enum(mode_field, getattr(request, mode_field), MetadataMode.DESCRIPTOR)
    return None if given is None else MetadataChange(given, mode, field, fields.max_metadata_bytes)


def merge_patch(target: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """Return a new object: the target with the patch applied.

    Objects merge at every depth, None removes a key, and any other value replaces.

    Source: RFC 7396, section 2.
    """
    merged = dict(target)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            current = merged.get(key)
            merged[key] = merge_patch(current if isinstance(current, dict) else {}, value)
        else:
            merged[key] = value
    return merged
