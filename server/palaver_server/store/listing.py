"""The parts of listings that are the same for all resources."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from palaver_server.auth.access import Access
from palaver_server.database.connection import Connection, Row
from palaver_server.database.metadata_path import checked_path
from palaver_server.database.paging import KeyRange
from palaver_server.database.reader import Reader
from palaver_server.database.statement import Statement, StatementTemplate
from palaver_server.store.access_conditions import accessible_if_bound, guarded, narrowed
from palaver_server.store.filters import comparisons, metadata_paths


class ListingFilter(Protocol):
    """A named tuple with the conditions of a listing; None: not given."""

    @property
    def metadata(self) -> str | None:
        """The SQL/JSON path."""
        ...

    def _asdict(self) -> dict[str, Any]: ...


class ListingTemplates(NamedTuple):
    """The statements of a listing, or of a count of its rows.

    Attributes:
        listed: Reads the rows that pass.
        in_order: The same for a bound caller's path, which it evaluates row by row in the order of
            the listing (see `paging.listing_in_order`).
        live: The condition that the row `s` is live.
    """

    listed: StatementTemplate
    in_order: StatementTemplate
    live: str = "s.deleted_at IS NULL"


async def read_page(  # noqa: PLR0913 - all but the first two by name
    reader: Reader,
    access: Access,
    *,
    templates: ListingTemplates,
    key_range: KeyRange,
    limit: int,
    filter: ListingFilter,
    set_filter_timeout: Sequence[str],
) -> list[Row]:
    """Run a statement of a listing over a key range, and return its rows.

    Raises:
        InvalidRequest: `filter.metadata` is not a SQL/JSON path.
        DeadlineExceeded: A statement with a path exceeded its timeout.
    """
    given = {name: value for name, value in filter._asdict().items() if value is not None}
    in_scope = accessible_if_bound(access, "s.user_id")
    accessible = " AND ".join([templates.live, *in_scope, *comparisons("s", given)])
    paths = metadata_paths("s", filter.metadata)
    if paths and access.user_id is not None:
        template, condition = templates.in_order, guarded(accessible, *paths)
    else:
        template, condition = templates.listed, narrowed(access, accessible, *paths)
    statement = template.fill(
        # A generic plan is bad for most filters, and for a bound caller.
        is_prepared=not given and access.user_id is None,
        accessible=accessible,
        condition=condition,
        direction=key_range.direction,
    )
    parameters = {**page_parameters(access, key_range, limit), **given}

    async def fetch(connection: Connection) -> list[Row]:
        async with checked_path(connection, filter.metadata, access):
            return await connection.fetch(statement, parameters)

    snapshot = set_filter_timeout if paths else None
    return await reader.read(fetch, access.principal, snapshot=snapshot)


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
