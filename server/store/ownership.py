"""Which rows a caller may see, and what keeps its conditions off all other rows."""

from server.principal import bound_user

# All sessions; but where the caller is bound to a user, that user's alone. It stands in
# every statement that finds a session, where it holds for the very row that is read or
# locked: a check before that could be outrun by a session's move to another user. Its
# parameter is `bound_user()`.
OWNED = "(%(bound_user)s::text IS NULL OR s.user_id = %(bound_user)s)"

# A live message of such a session, for statements that read messages by key.
VISIBLE_MESSAGE = f"""
    m.deleted_at IS NULL AND (%(bound_user)s::text IS NULL OR EXISTS (
        SELECT FROM sessions s WHERE s.session_id = m.session_id AND {OWNED}
    ))
"""


def narrowed(visible: str, *supplied: str) -> str:
    """Add conditions that the caller supplies to those that select the rows it may see.

    For a bound caller they are `guarded`. For a caller who is bound to no user, all live rows are
    visible, and the conditions stay where indexes and statistics can serve them.

    Args:
        visible: Conditions whose evaluation cannot fail; a plan may evaluate them in any order.
        supplied: The caller's conditions, in the order of evaluation; may be empty.
    """
    if bound_user() is None or not supplied:
        return " AND ".join([visible, *supplied])
    return f"{visible} AND {guarded(visible, *supplied)}"


def guarded(visible: str, *supplied: str) -> str:
    """Return the caller's conditions, evaluated on visible rows alone in any plan.

    PostgreSQL evaluates the terms of an AND in any order, at whatever join or index recheck they
    fit, and its planner tries an operator on the table's statistics, which are sampled from
    everybody's rows. An error of a path that `@@` does not suppress (that of a time zone
    conversion, for one), or the time that a path takes, would tell about rows that the caller may
    not see. CASE evaluates nothing before its condition holds, and hides the operator from the
    planner. Since it repeats all the other conditions, a condition is evaluated on the same rows
    in every plan, and fails in every plan or in none.
    """
    *before, last = supplied
    for condition in reversed((visible, *before)):
        last = f"CASE WHEN {condition} THEN {last} END"
    return last
