"""SQL conditions that limit a statement to the rows in the caller's access scope."""

from palaver_server.auth.access import Access
from palaver_server.store.liveness import LIVE_MESSAGE


def accessible(user_id: str) -> str:
    """Return the condition that a user is in the access scope; its parameter is `access_user_id`.

    It is part of each statement that finds a row, so that it holds for the row version that is
    read or locked: a check in a statement before could be outdated by a concurrent write.

    Args:
        user_id: The column with the user's id.
    """
    return f"(%(access_user_id)s::text IS NULL OR {user_id} = %(access_user_id)s)"


ACCESSIBLE_SESSION = accessible("s.user_id")


def accessible_if_bound(access: Access, user_id: str) -> list[str]:
    """Return `accessible` for a bound caller, and no condition for any other.

    For listings, which are planned for a bound caller each time: its user is a small part of the
    table, and a generic plan of `accessible` would be bad for one of the two.
    """
    return [] if access.user_id is None else [accessible(user_id)]


# A live message of such a session, for statements that read messages by key.
ACCESSIBLE_MESSAGE = f"""
    {LIVE_MESSAGE} AND (%(access_user_id)s::text IS NULL OR EXISTS (
        SELECT 1 FROM sessions s WHERE s.session_id = m.session_id AND {ACCESSIBLE_SESSION}
    ))
"""


def narrowed(access: Access, accessible: str, *supplied: str) -> str:
    """Add the caller's conditions to those that select the rows in its access scope.

    For a bound caller they are `guarded`. For any other caller all live rows are accessible, and
    the conditions stay where indexes and statistics can serve them.

    Args:
        access: The caller's access scope.
        accessible: Conditions whose evaluation cannot fail; a plan may evaluate them in any order.
        supplied: The caller's conditions, in the order of evaluation; may be empty.
    """
    if access.user_id is None or not supplied:
        return " AND ".join([accessible, *supplied])
    return f"{accessible} AND {guarded(accessible, *supplied)}"


def guarded(accessible: str, *supplied: str) -> str:
    """Return the caller's conditions such that every plan evaluates them on accessible rows only.

    PostgreSQL evaluates the terms of an AND in any order, at any join or index recheck, and its
    planner applies operators to the table's statistics, which are sampled from all users' rows.
    An error that `@@` does not suppress (of a time zone conversion, for example), or the time
    that a path takes, would reveal rows outside the access scope. CASE does not evaluate a
    result before its condition holds, and hides the operator from the planner. Since it repeats
    all other conditions, the caller's are evaluated on the same rows in every plan, and fail in
    every plan or in none.
    """
    *before, last = supplied
    for condition in reversed((accessible, *before)):
        last = f"CASE WHEN {condition} THEN {last} END"
    return last
