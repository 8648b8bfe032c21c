"""Whose sessions the statements find."""

# All sessions; but where the caller is bound to a user, that user's alone. It stands in
# every statement that finds a session, where it holds for the very row that is read or
# locked: a check before that could be outrun by a session's move to another user. Its
# parameter is `bound_user()`.
OWNED = "(%(bound_user)s::text IS NULL OR s.user_id = %(bound_user)s)"
