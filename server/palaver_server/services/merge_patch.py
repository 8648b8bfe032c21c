"""Changes of metadata: JSON Merge Patch, or replacement."""

from typing import Any

from palaver_server.services.encoding.metadata import object_from_json
from palaver_server.services.validation import Fields


def patched_metadata(metadata: str, patch: dict[str, Any] | None, *, replace: bool = False) -> str:
    """Merge a patch into metadata, or replace the metadata by it; return JSON.

    Args:
        metadata: The current metadata as JSON.
        patch: The patch; None leaves the metadata unchanged.
        replace: Whether the patch replaces the metadata.

    Raises:
        InvalidRequest: The result exceeds the maximum size of metadata.
    """
    if patch is None:
        return metadata
    with Fields() as fields:
        return fields.metadata_json(
            "metadata", patch if replace else merge_patch(object_from_json(metadata), patch)
        )


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
