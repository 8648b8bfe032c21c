"""The connection of the commands that call a running server."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import click
import grpc

from palaver_server.addresses import is_local
from palaver_server.cli.error_reporting import reported_errors
from palaver_server.config import read_secret_file
from palaver_server.errors import PalaverError

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

Metadata: TypeAlias = tuple[tuple[str, str], ...]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

_KEY = "PALAVER_API_KEY"
_KEY_FILE = "PALAVER_API_KEY_FILE"

_OPTIONS = (
    click.option(
        "--address",
        default="127.0.0.1:50051",
        show_default=True,
        envvar="PALAVER_ADDRESS",
        show_envvar=True,
        help="Address of the running server.",
    ),
    click.option(
        "--tls-ca",
        type=_FILE,
        envvar="PALAVER_TLS_CA",
        show_envvar=True,
        help="PEM file with the authorities that signed the server's certificate. Enables TLS.",
    ),
    click.option("--tls-certificate", type=_FILE, help="PEM file with a client certificate."),
    click.option("--tls-key", type=_FILE, help="PEM file with the certificate's private key."),
)


class ChannelRefused(PalaverError):
    """The options allow no connection, or one that would send a secret in the clear."""


def client_options(command: CommandT) -> CommandT:
    """Give a command the flags for the server's address and TLS."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@contextmanager
def connect(address: str, **tls: Path | None) -> Iterator[tuple[grpc.Channel, Metadata]]:
    """Yield a channel to a server and the metadata for its calls.

    Raises:
        click.ClickException: A call in the block failed, or the options allow no connection.
    """
    try:
        with reported_errors():
            metadata = authorization(configured_key(), address, by_tls=tls["tls_ca"] is not None)
            with open_channel(address, **tls) as channel:
                yield channel, metadata
    except grpc.RpcError as error:
        raise click.ClickException(f"{error.code().name}: {error.details()}") from None


@contextmanager
def open_channel(
    address: str, *, tls_ca: Path | None, tls_certificate: Path | None, tls_key: Path | None
) -> Iterator[grpc.Channel]:
    """Yield a channel to a server.

    Args:
        address: Address of the server.
        tls_ca: Authorities that may have signed the server's certificate; None for no TLS.
        tls_certificate: The client's own certificate, if the server requires one.
        tls_key: The private key of that certificate.

    Raises:
        ChannelRefused: A file is given without the files that it needs.
    """
    if bool(tls_certificate) != bool(tls_key) or (tls_key and not tls_ca):
        raise ChannelRefused("--tls-certificate and --tls-key need each other and --tls-ca")
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


def configured_key() -> str | None:
    """Return the API key or token of the environment, if there is one.

    Raises:
        ChannelRefused: Two are given, or the file cannot be read.
    """
    key, file = (os.environ.get(name) for name in (_KEY, _KEY_FILE))
    if key and file:
        raise ChannelRefused(f"{_KEY}, {_KEY_FILE}: only one may be given")
    try:
        return read_secret_file(file) if file else key
    except ValueError as error:
        raise ChannelRefused(f"{_KEY_FILE}: {error}") from None


def authorization(api_key: str | None, address: str, *, by_tls: bool) -> Metadata:
    """Return the metadata that presents an API key or token, if one is given.

    Raises:
        ChannelRefused: The key would leave this machine in the clear.
    """
    if not api_key:
        return ()
    if not by_tls and not is_local(address):
        raise ChannelRefused(f"{_KEY} would be sent to {address} in the clear: give --tls-ca")
    return (("authorization", f"Bearer {api_key}"),)
