"""Callers with credentials: API keys, tokens, client certificates."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from palaver.v1.memory_pb2 import Message
from palaver.v1.session_service_pb2 import GetSessionRequest
from palaver_server.auth.api_keys import key_hash, make_key
from palaver_server.auth.credentials_file import key_entry
from palaver_server.auth.principal import Principal
from palaver_server.auth.roles import Role
from tests.support.certificates import Authority, Identity
from tests.support.client import Client


class _Details(NamedTuple):
    method: str
    timeout: float | None
    metadata: Sequence[tuple[str, str | bytes]]
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class _Showing(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """A client interceptor that sends the same metadata with every call."""

    def __init__(self, metadata: Sequence[tuple[str, str]]) -> None:
        self._metadata = metadata

    def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        """Adds the metadata."""
        return continuation(self._showing(client_call_details), request)

    def intercept_unary_stream(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        """Adds the metadata."""
        return continuation(self._showing(client_call_details), request)

    def _showing(self, details: Any) -> _Details:
        return _Details(
            details.method,
            details.timeout,
            [*(details.metadata or ()), *self._metadata],
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )


@contextmanager
def caller(
    address: str,
    *bearers: str,
    metadata: Sequence[tuple[str, str]] = (),
    authority: Authority | None = None,
    identity: Identity | None = None,
) -> Iterator[Client]:
    """Yield a client on a connection of its own.

    Args:
        address: The address of the server.
        bearers: The keys or tokens that it sends.
        metadata: Other metadata that it sends.
        authority: The issuer of the server's certificate; None: no TLS.
        identity: The client's own certificate.
    """
    options = [("grpc.use_local_subchannel_pool", 1)]
    if authority is None:
        channel = grpc.insecure_channel(address, options)
    else:
        credentials = grpc.ssl_channel_credentials(
            authority.certificate,
            identity.key if identity else None,
            identity.certificate if identity else None,
        )
        channel = grpc.secure_channel(address, credentials, options)
    shown = [*(("authorization", f"Bearer {bearer}") for bearer in bearers), *metadata]
    with channel:
        yield Client(grpc.intercept_channel(channel, _Showing(shown)), address)


class KeysFile:
    """A credentials file with keys and certificates, written on each change.

    Attributes:
        path: The path of the file.
        keys: The keys in the order in which they were added.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys: list[str] = []
        self._entries: dict[str, str] = {}

    def add(self, role: Role = Role.WRITER, user_id: str | None = None, *, weight: int = 1) -> str:
        """Add a new key, and return it."""
        key = make_key()
        principal = Principal(f"key {len(self._entries)}", role, user_id, weight)
        self.keys.append(key)
        self._entries[key] = key_entry(principal, key_hash(key))
        self._write()
        return key

    def add_certificate(
        self, subject: str, role: Role = Role.WRITER, user_id: str | None = None
    ) -> None:
        """Add the certificates of a subject."""
        bound = "" if user_id is None else f'user_id = "{user_id}"\n'
        self._entries[subject] = (
            f"[[certificate]]\nsubject = '{subject}'\nrole = \"{role.name.lower()}\"\n{bound}"
        )
        self._write()

    def remove(self, key: str) -> None:
        """Remove a key or subject."""
        del self._entries[key]
        self._write()

    def _write(self) -> None:
        self.path.write_text("\n".join(self._entries.values()))


# As long as `nobody`, so that the statuses about both can be compared.
OTHER_USER = "bertha"

# Another user, a user with almost the same name, and no user.
OTHER_OWNERS = (OTHER_USER, "ada ", "")


def add_others_session(client: Client, session_id: str, owner: str = OTHER_USER) -> None:
    """Add a session with the message `m` that does not belong to the user `ada`."""
    message = Message(message_id="m", role="user", content=OTHER_USER)
    client.add_memory(session_id, [message], user_id=owner)


def code_of(client: Client, *metadata: tuple[str, str]) -> str:
    """Get a session that does not exist, and return the code: NOT_FOUND if the caller is let in."""
    with pytest.raises(grpc.RpcError) as raised:
        client.sessions.GetSession(
            GetSessionRequest(session_id="no such"), timeout=20, metadata=metadata
        )
    return str(raised.value.code().name)
