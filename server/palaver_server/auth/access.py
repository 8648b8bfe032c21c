"""The access scope of a caller: the users and sessions that it may see and change."""

from dataclasses import dataclass

from palaver_server.errors import PermissionDenied
from palaver_server.fair_slots import Consumer


@dataclass(frozen=True, slots=True)
class Access:
    """An access scope.

    Attributes:
        user_id: The user that the caller is bound to: only this user and this user's sessions
            exist for it. None: the caller is not bound, and may access all users and sessions.
        principal: Whose share of the calls and of the database connections its calls use. None:
            authentication is off, and there are no shares.
    """

    user_id: str | None = None
    principal: Consumer | None = None

    def new_owner(self, user_id: str | None) -> str | None:
        """Return the user of a new session: the requested user, or by default the bound user.

        Raises:
            PermissionDenied: The caller is bound to another user.
        """
        if user_id is None:
            return self.user_id
        self.check_owner(user_id)
        return user_id

    def check_owner(self, user_id: str | None) -> None:
        """Check that the caller may give a session to this user; None: to no user.

        Raises:
            PermissionDenied: The caller is bound to another user.
        """
        if self.user_id not in (None, user_id):
            raise PermissionDenied(
                "BOUND_TO_ANOTHER_USER", "user_id: the credential is bound to another user"
            )


EVERYTHING = Access()
