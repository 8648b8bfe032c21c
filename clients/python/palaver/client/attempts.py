"""The attempts of one call: its deadline, and when a failed attempt is repeated."""

import random
import time
from typing import Any

import grpc
from google.protobuf.message import Message

from palaver.client.errors import Failure
from palaver.client.rpc import Rpc

_MIN_PAUSE_SECONDS = 0.1
_MAX_PAUSE_SECONDS = 2.0

# Deleting a user takes time that grows with the user's data.
_DELETE_USER_TIMEOUT_SECONDS = 300.0


class Attempts:
    """The attempts of one call.

    A unary call is repeated until its deadline. A stream without a deadline is repeated until it
    has made no progress for as long as a unary call may take.

    Args:
        rpc: The RPC.
        request: Its request, or the first of its requests.
        timeout: Seconds until the deadline; None: the default of the RPC.
        default: Seconds until the deadline of a unary call without one.
        is_stream: Whether the call returns a stream, which has no deadline by default.
    """

    def __init__(
        self,
        rpc: Rpc[Any],
        request: Message,
        timeout: float | None,
        default: float,
        *,
        is_stream: bool = False,
    ) -> None:
        if timeout is None and rpc.name == "DeleteUser":
            default = max(default, _DELETE_USER_TIMEOUT_SECONDS)
        self._rpc = rpc
        self._request = request
        self._patience = default if timeout is None else timeout
        self._has_deadline = not is_stream or timeout is not None
        self._give_up_at = time.monotonic() + self._patience
        self._failures = 0

    def options(self) -> dict[str, Any]:
        """Return the arguments of gRPC for the next attempt.

        Without a deadline, a call must not wait for a server that may never be ready.
        """
        remaining = max(0.0, self._give_up_at - time.monotonic())
        return {
            "timeout": remaining if self._has_deadline else None,
            "wait_for_ready": self._has_deadline,
        }

    def progress(self) -> None:
        """Note that a response of a stream has arrived."""
        self._failures = 0
        if not self._has_deadline:
            self._give_up_at = time.monotonic() + self._patience

    def pause_after(self, error: grpc.RpcError) -> float:
        """Return the seconds to wait before the next attempt.

        Raises:
            PalaverError: The call is not to be repeated.
        """
        failure = Failure(error)
        self._failures += 1
        backoff = _MIN_PAUSE_SECONDS * 2 ** (self._failures - 1)
        pause: float = max(min(backoff, _MAX_PAUSE_SECONDS), failure.retry_delay)
        pause *= random.uniform(0.8, 1.2)  # noqa: S311 - not for cryptography
        is_retryable = failure.is_resumable or self._rpc.may_retry(failure.code, self._request)
        if not is_retryable or time.monotonic() + pause >= self._give_up_at:
            raise failure.error() from error
        return pause
