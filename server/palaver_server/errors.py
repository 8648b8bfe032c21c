"""The domain errors. The docstring of each class says when it occurs.

Validation and stores raise them, and `interceptors/error_mapping.py` maps them to gRPC statuses.
Callers see their texts, which name fields, IDs and limits, but never contents, metadata or
internals.
"""

from dataclasses import dataclass


class PalaverError(Exception):
    """Base class of all errors that a caller or an operator can act on."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """An invalid field of a request.

    Attributes:
        field: Path of the field, such as `messages[2].role`.
        description: What is allowed, and what was given.
    """

    field: str
    description: str


class InvalidRequest(PalaverError):
    """One or more fields of the request are invalid.

    `is_complete` tells whether all fields were checked.
    """

    def __init__(self, *violations: FieldViolation, is_complete: bool = True) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = violations
        self.is_complete = is_complete


class NotFound(PalaverError):
    """The requested resource does not exist or is deleted.

    `resource_type` is the name of a message in the `.proto` files.
    """

    def __init__(self, resource_type: str, resource_name: str) -> None:
        super().__init__(f"{resource_type} {_quoted(resource_name)} does not exist")
        self.resource_type = resource_type
        self.resource_name = resource_name


class AlreadyExists(PalaverError):
    """The resource to create already exists.

    `resource_type` is the name of a message in the `.proto` files.
    """

    def __init__(self, resource_type: str, resource_name: str) -> None:
        super().__init__(f"{resource_type} {_quoted(resource_name)} already exists")
        self.resource_type = resource_type
        self.resource_name = resource_name


class Stale(PalaverError):
    """A value differs from the one that the caller expects.

    Attributes:
        field: The name of the value; that of the request's field is `expected_` and this name.
    """

    field: str

    def __init__(self, *, expected: int | None, actual: int) -> None:
        super().__init__(
            f"expected_{self.field}: must be the current {self.field} {actual}; got {expected}"
        )
        self.expected = expected
        self.actual = actual


class StaleLastSequence(Stale):
    """The session's last sequence differs from the expected one."""

    field = "last_sequence"


class StaleRevision(Stale):
    """The revision of a session, a user or a message differs from the expected one.

    It is 0 if there is no live one.
    """

    field = "revision"


class Unauthenticated(PalaverError):
    """The call has no valid credential."""


class PermissionDenied(PalaverError):
    """The caller is authenticated but not permitted to do this.

    `reason` is a constant for programs, such as `ROLE_TOO_LOW`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class CredentialsExpired(PalaverError):
    """The server's credentials or keys have been unusable for longer than the grace period."""

    def __init__(self) -> None:
        super().__init__("the server cannot read its credentials; try again later")


class DatabaseUnavailable(PalaverError):
    """The database is unreachable, restarting, or temporarily refuses work."""

    def __init__(self) -> None:
        super().__init__("the database is unavailable; try again")


class NoConnectionInTime(PalaverError):
    """All connections of the caller's share stayed in use for as long as a call may wait."""

    def __init__(self) -> None:
        super().__init__("the database connections for this caller are in use; try again later")


class TooManyCalls(PalaverError):
    """The maximum numbers of running and waiting calls are reached."""

    def __init__(self) -> None:
        super().__init__("the server has reached its maximum number of calls; try again later")


class NoRequest(PalaverError):
    """A call has ended its requests without sending one."""

    def __init__(self) -> None:
        super().__init__("the method takes one request; got none")


class CallCancelled(PalaverError):
    """The server cancelled a call.

    Attributes:
        next_cursor: The cursor that resumes a cancelled stream; 0 if none of it was sent.
    """

    next_cursor = 0


class DeadlineExceeded(CallCancelled):
    """The call or one of its statements exceeded its time limit."""

    def __init__(self) -> None:
        super().__init__("the call exceeded its time limit")


class ReaderTooSlow(CallCancelled):
    """The client did not take a chunk of a stream within the stream send timeout."""

    def __init__(self) -> None:
        super().__init__("the stream was not read for too long; resume it with next_cursor")


class ServerStopping(CallCancelled):
    """The server is stopping, and the call did not finish within the grace period."""

    def __init__(self) -> None:
        super().__init__("the server is stopping; try again")


class DatabaseTooNew(PalaverError):
    """A newer version of Palaver migrated the database."""

    def __init__(self, *, found: int, known: int) -> None:
        super().__init__(
            f"the database is at migration {found}, but this version of Palaver knows only"
            f" migrations up to {known}; run a newer version"
        )


class DatabaseUnusable(PalaverError):
    """The server cannot start: the database is unreachable, or denies access or a privilege."""


class CredentialsUnusable(PalaverError):
    """The server cannot start: a file or URL of certificates, credentials or keys is unusable."""


class VectorsUnusable(PalaverError):
    """The database cannot store vectors: it lacks pgvector or denies creating the table."""


class ServerReadOnly(PalaverError):
    """The call changes something, and the server is configured to change nothing."""

    def __init__(self) -> None:
        super().__init__("this server is read-only; call one that is not")


class SemanticSearchUnavailable(PalaverError):
    """The server has no embedder or the database no pgvector; the text says what to do."""


class EmbedderUnavailable(PalaverError):
    """The embedder is unreachable, slow or busy, answers wrongly, or refuses the server."""


class TextsRefused(PalaverError):
    """The embedder permanently refuses at least one of these texts."""


class EmbeddedPostgresError(PalaverError):
    """The embedded PostgreSQL cannot start."""


def shorten(text: str, max_characters: int) -> str:
    """Cut a text for a status: clients limit the size of its metadata."""
    return text if len(text) <= max_characters else text[:max_characters] + "…"


def _quoted(name: str) -> str:
    return repr(shorten(name, 100))
