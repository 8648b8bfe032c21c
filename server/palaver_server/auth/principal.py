"""The authenticated principal of a call.

The authentication interceptor sets it. Only the interceptors and `services/` read it: below
them, the access scope is an argument.
"""

from contextvars import ContextVar
from dataclasses import dataclass, field

from palaver_server.auth.access import EVERYTHING, Access
from palaver_server.auth.roles import Role
from palaver_server.fair_slots import Consumer


@dataclass(frozen=True, slots=True)
class Principal:
    """The identity behind a credential.

    Attributes:
        name: The name for logs: of an API key its name, of a JWT its subject, of a client
            certificate its name or else its subject.
        role: What it may do.
        user_id: The user that it is bound to; None if it may access all users.
        weight: How many times as much as others it may use of the server.
        access: The access scope of its calls.

    Raises:
        ValueError: The name could forge log lines, no user can have the ID, or an admin is
            bound to a user.
    """

    name: str
    role: Role
    user_id: str | None = None
    weight: int = 1
    access: Access = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.name.isprintable():
            raise ValueError("the name must have printable characters only")
        # Set here: each call reads it.
        access = Access(self.user_id, Consumer(self.name, self.weight))
        object.__setattr__(self, "access", access)
        if self.user_id is None:
            return
        if not self.user_id or "\0" in self.user_id:
            raise ValueError("the user_id must not be empty, and must have no NUL character")
        self.user_id.encode()  # raises ValueError for an unpaired surrogate
        if self.role is Role.ADMIN:
            raise ValueError("a credential bound to a user must not have the role admin")


# The access scope of the current call. The authentication interceptor sets both.
ACCESS: ContextVar[Access] = ContextVar("access", default=EVERYTHING)

# None: authentication is off.
PRINCIPAL: ContextVar[Principal | None] = ContextVar("principal", default=None)
