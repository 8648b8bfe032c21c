"""Changes of metadata, by JSON Merge Patch or whole."""

from typing import Any

from palaver_server.services.encoding.metadata import object_from_json
from palaver_server.services.validation import Fields


def patched_metadata(metadata: str, patch: dict[str, Any] | None, *, replace: bool = False) -> str:
    """Merges a patch into metadata, or replaces it; without a patch it stays as it is.

    Args:
        metadata: The present metadata, as JSON.
        patch: What to merge, or to replace it by.
        replace: Whether to replace.

    Raises:
        InvalidRequest: The result is larger than metadata may be.
    """
    if patch is None:
        return metadata
    with Fields() as fields:
        return fields.metadata_json(
            "metadata", patch if replace else merge_patch(object_from_json(metadata), patch)
        )


def merge_patch(target: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """Applies a patch to an object, and gives the result; neither is changed.

    Objects merge at every depth, None removes a key, anything else replaces.

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
