"""Who makes a call, and whose sessions the call may touch.

The interceptor that authenticates sets it; where authentication is off, nobody does.
"""

from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum

from palaver_server.auth.access import Access


class Role(IntEnum):
    """What a principal may do; each role may do what those before it may."""

    READER = 1
    WRITER = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Principal:
    """Whom a credential stands for.

    Attributes:
        name: For logs: of an API key its name, of a token its subject, of a client
            certificate its subject unless it was given a name.
        role: What it may do.
        user_id: The user whose sessions are all that it sees and touches; None: every session.

    Raises:
        ValueError: The name would forge lines of logs, the user can have no session, or it
            is bound to a user and an admin's at once.
    """

    name: str
    role: Role
    user_id: str | None = None

    def __post_init__(self) -> None:
        if not self.name.isprintable():
            raise ValueError("the name has characters that cannot be printed")
        if self.user_id is None:
            return
        if not self.user_id or "\0" in self.user_id:
            raise ValueError("the user_id is empty, or has a NUL character")
        self.user_id.encode()  # half a surrogate pair is no text
        if self.role is Role.ADMIN:
            raise ValueError("a credential that is bound to a user cannot be an admin's")

    @property
    def access(self) -> Access:
        """The access scope of the principal's calls."""
        return Access(self.user_id)


PRINCIPAL: ContextVar[Principal | None] = ContextVar("principal", default=None)


def bound_user() -> str | None:
    """Gives the user to whom the caller of the present call is bound; None: to nobody."""
    principal = PRINCIPAL.get()
    return None if principal is None else principal.user_id
