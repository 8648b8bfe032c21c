"""The errors of the domain. Each class says in one sentence when it occurs.

Stores and validation raise them; `interceptors/error_mapping.py` turns them into
gRPC statuses. Their texts go to callers: they name fields, ids and limits, never
contents, metadata or anything internal.
"""

from dataclasses import dataclass


class PalaverError(Exception):
    """Base of every error that a caller or an operator can act upon."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One bad field of a request.

    Attributes:
        field: Path of the field, such as `messages[2].role`.
        description: What is wrong with it, and the limit.
    """

    field: str
    description: str


class InvalidRequest(PalaverError):
    """One or more fields of the request break their rules."""

    def __init__(self, *violations: FieldViolation) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = violations


class NotFound(PalaverError):
    """What the request names does not exist, or is deleted.

    `resource_type` is the name of a message in the `.proto` files.
    """

    def __init__(self, resource_type: str, resource_name: str) -> None:
        super().__init__(f"{resource_type} {_shortened(resource_name)} does not exist")
        self.resource_type = resource_type
        self.resource_name = resource_name


class AlreadyExists(PalaverError):
    """What the request would create exists.

    `resource_type` is the name of a message in the `.proto` files.
    """

    def __init__(self, resource_type: str, resource_name: str) -> None:
        super().__init__(f"{resource_type} {_shortened(resource_name)} exists already")
        self.resource_type = resource_type
        self.resource_name = resource_name


class StaleLastSequence(PalaverError):
    """The session's last sequence is not the one that the caller expected."""

    def __init__(self, *, expected: int, actual: int) -> None:
        super().__init__(f"expected_last_sequence is {expected}, but the session's is {actual}")
        self.expected = expected
        self.actual = actual


class Unauthenticated(PalaverError):
    """The call has no credential, or one that is not, or no longer, good."""


class PermissionDenied(PalaverError):
    """The caller is known, and may not do this.

    `reason` is a constant for programs, such as `ROLE_TOO_LOW`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class DatabaseUnavailable(PalaverError):
    """The database is away, restarting, or refuses the work for now."""

    def __init__(self) -> None:
        super().__init__("the database is unavailable; try again")


class NoConnectionInTime(PalaverError):
    """Every database connection stayed in use for as long as a call may wait for one."""

    def __init__(self) -> None:
        super().__init__("no database connection became free in time; try again later")


class TooManyCalls(PalaverError):
    """As many calls are running and waiting as the server takes at a time."""

    def __init__(self) -> None:
        super().__init__("the server is busy with as many calls as it takes; try again later")


class CallCancelled(PalaverError):
    """The server ended a call before it was done.

    Attributes:
        next_cursor: What resumes the stream that was ended; 0 if nothing of it was sent.
    """

    next_cursor = 0


class DeadlineExceeded(CallCancelled):
    """The call, or one statement of it, took longer than it may."""

    def __init__(self) -> None:
        super().__init__("the call took longer than it may")


class ReaderTooSlow(CallCancelled):
    """The caller did not take a chunk of a stream for longer than the server keeps it."""

    def __init__(self) -> None:
        super().__init__("the stream was not read for too long; resume it")


class ServerStopping(CallCancelled):
    """The server stops, and the call would outlast the time that it has for that."""

    def __init__(self) -> None:
        super().__init__("the server is stopping; try again")


class DatabaseTooNew(PalaverError):
    """The database was migrated by a newer Palaver than this one."""

    def __init__(self, *, found: int, known: int) -> None:
        super().__init__(
            f"the database is at migration {found}, and this version of Palaver knows them"
            f" up to {known}: run a newer version"
        )


class DatabaseUnusable(PalaverError):
    """The database cannot be used at start: it is away, refuses the user, or lacks rights."""


class CredentialsUnusable(PalaverError):
    """A file or URL with certificates, credentials or keys cannot be used at start."""


class VectorsUnusable(PalaverError):
    """The database cannot keep vectors: it lacks pgvector, or the right to make their table."""


class SemanticSearchUnavailable(PalaverError):
    """The server has no embedder, or the database no pgvector; the text says what to do."""


class EmbedderUnavailable(PalaverError):
    """The embedder cannot be reached, is busy, or refuses the server and not a text."""


class TextsRefused(PalaverError):
    """The embedder refuses these texts for good, one of them at least."""


class EmbeddedPostgresError(PalaverError):
    """The embedded PostgreSQL cannot be started."""


def _shortened(name: str) -> str:
    """Quotes a name for a message; a long one is cut, since a status is a small thing."""
    return repr(name if len(name) <= 100 else name[:100] + "…")
