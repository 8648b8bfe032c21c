"""Whose the sessions may be that a caller creates or changes, and which users it sees."""

from palaver_server.auth.principal import bound_user
from palaver_server.errors import NotFound, PermissionDenied


def new_owner(user_id: str | None) -> str | None:
    """Gives the user of a new session: the one that is asked for, or the caller's own.

    Raises:
        PermissionDenied: The caller is bound to another user.
    """
    if user_id is None:
        return bound_user()
    check_owner(user_id)
    return user_id


def check_owner(user_id: str | None) -> None:
    """Checks that a session may become this user's, or nobody's if None.

    Raises:
        PermissionDenied: The caller is bound to another user.
    """
    if bound_user() not in (None, user_id):
        raise PermissionDenied(
            "BOUND_TO_ANOTHER_USER", "user_id: the credential is bound to another user"
        )


def check_visible(user_id: str) -> None:
    """Checks that a caller may see a user, which is nobody's but its own, ever.

    Raises:
        NotFound: The caller is bound to another user.
    """
    if bound_user() not in (None, user_id):
        raise NotFound("User", user_id)
