"""The conditions that filters of listings and searches add to a statement.

A prefix is compared by `^@`, for which PostgreSQL reads a range of an index on IDs: they compare by
bytes.
"""

from collections.abc import Iterable

_COMPARISONS = {
    "user_id": "{row}.user_id = %(user_id)s",
    "user_ids": "{row}.user_id = ANY(%(user_ids)s::text[])",
    "user_id_prefix": "{row}.user_id ^@ %(user_id_prefix)s::text",
    "session_id_prefix": "{row}.session_id ^@ %(session_id_prefix)s::text",
    "email": '{row}.email COLLATE "C" = %(email)s',
    "roles": "{row}.role = ANY(%(roles)s::text[])",
    "created_after": "{row}.created_at >= %(created_after)s",
    "created_before": "{row}.created_at < %(created_before)s",
    "updated_after": "{row}.updated_at >= %(updated_after)s",
    "updated_before": "{row}.updated_at < %(updated_before)s",
}


def comparisons(row: str, fields: Iterable[str]) -> list[str]:
    """Return the conditions of the given fields of a filter, except that of its path.

    Args:
        row: The alias of the table that is filtered.
        fields: Names of fields; also the names of the conditions' parameters.
    """
    return [_COMPARISONS[field].format(row=row) for field in fields if field in _COMPARISONS]


def metadata_paths(row: str, path: str | None) -> list[str]:
    """Return the condition of a filter's SQL/JSON path; none if there is no path."""
    return [] if path is None else [f"{row}.metadata @@ %(metadata)s::jsonpath"]
