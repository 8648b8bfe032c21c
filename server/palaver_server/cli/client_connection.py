"""Connects the commands that call a running server to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import grpc

from palaver_server.addresses import is_local
from palaver_server.errors import PalaverError

Metadata: TypeAlias = tuple[tuple[str, str], ...]


class ChannelRefused(PalaverError):
    """A connection like this cannot be made, or would give a secret away."""


@contextmanager
def connected(
    address: str, *, tls_ca: Path | None, tls_certificate: Path | None, tls_key: Path | None
) -> Iterator[grpc.Channel]:
    """Gives a channel to the server at an address.

    Args:
        address: Of the server.
        tls_ca: Use TLS, and take a certificate of these authorities; None: no TLS.
        tls_certificate: The client's own certificate, if it needs one.
        tls_key: The private key of that.

    Raises:
        ChannelRefused: Some of the files need others that are not given.
    """
    if bool(tls_certificate) != bool(tls_key) or (tls_key and not tls_ca):
        raise ChannelRefused("--tls-certificate and --tls-key need each other, and --tls-ca")
    if tls_ca is None:
        with grpc.insecure_channel(address) as channel:
            yield channel
        return
    credentials = grpc.ssl_channel_credentials(
        tls_ca.read_bytes(),
        tls_key.read_bytes() if tls_key else None,
        tls_certificate.read_bytes() if tls_certificate else None,
    )
    with grpc.secure_channel(address, credentials) as channel:
        yield channel


def authorization(api_key: str | None, address: str, *, by_tls: bool) -> Metadata:
    """Gives the metadata of calls that shows an API key or token, if there is one.

    Raises:
        ChannelRefused: It would travel in the clear, beyond this machine.
    """
    if not api_key:
        return ()
    if not by_tls and not is_local(address):
        raise ChannelRefused("the key would travel in the clear: give --tls-ca")
    return (("authorization", f"Bearer {api_key}"),)
