"""The parts of listings that are the same for all resources."""

from typing import Any

from palaver_server.auth.access import Access
from palaver_server.database.paging import KeyRange
from palaver_server.database.reader import Reader
from palaver_server.database.statement import Statement


def page_parameters(access: Access, key_range: KeyRange, limit: int) -> dict[str, Any]:
    """Return the parameters that select a page of a listing."""
    return {
        "limit": limit,
        "after": key_range.after,
        "before": key_range.before,
        "access_user_id": access.user_id,
    }


async def read_last_position(reader: Reader, access: Access, statement: Statement) -> int:
    """Run the statement of `last_position`, over the caller's share of the connections."""
    row = await reader.read(lambda connection: connection.fetch_one(statement), access.principal)
    return int(row[0]) if row else 0
