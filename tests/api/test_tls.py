"""TLS: the server's certificate, the accepted client certificates, and their renewal."""

import logging
import socket
import ssl
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from palaver.v1.session_service_pb2 import ListAllSessionsRequest
from palaver_server.bootstrap.security import Security
from palaver_server.config import Settings
from palaver_server.errors import CredentialsUnusable
from tests.conftest import Run, StartServer
from tests.support.callers import KeysFile, caller, code_of
from tests.support.certificates import Authority, Identity
from tests.support.client import Client, wait_until
from tests.support.http2 import HEADERS, Http2
from tests.support.watching import SERVING, health_of

pytestmark = pytest.mark.usefixtures("quick_looks")


class ServerFiles:
    """The server's certificate files, and the authority that issued them."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority()
        self.certificate, self.key = directory / "server.pem", directory / "server.key"
        self.client_ca = directory / "clients.pem"
        self.renew()

    def renew(self) -> Identity:
        """Write a new certificate and its key."""
        identity = self.authority.issue()
        identity.write(self.certificate, self.key)
        return identity

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that name these files."""
        return {"tls_certificate": self.certificate, "tls_key": self.key}


@pytest.fixture
def files(tmp_path: Path) -> ServerFiles:
    return ServerFiles(tmp_path)


def test_tls_server_refuses_plaintext(start_server: StartServer, files: ServerFiles) -> None:
    address = start_server(**files.settings).address

    with caller(address, authority=files.authority) as client:
        assert code_of(client) == "NOT_FOUND"
        assert health_of(client) == SERVING
    with caller(address) as client:
        assert code_of(client) == "UNAVAILABLE"
    with caller(address, authority=Authority()) as client:
        assert code_of(client) == "UNAVAILABLE"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_tls_old_versions_are_refused(start_server: StartServer, files: ServerFiles) -> None:
    address = start_server(**files.settings).address
    context = ssl.create_default_context(cadata=files.authority.certificate.decode())
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    host, _, port = address.rpartition(":")

    with (
        socket.create_connection((host, int(port))) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(plain, server_hostname="localhost")


def test_tls_client_certificates_of_other_authorities_are_refused(
    start_server: StartServer, files: ServerFiles
) -> None:
    clients, strangers = Authority("clients"), Authority("clients")
    files.client_ca.write_bytes(clients.certificate)
    address = start_server(**files.settings, tls_client_ca=files.client_ca).address

    def code_with(identity: Identity | None) -> str:
        with caller(address, authority=files.authority, identity=identity) as client:
            return code_of(client)

    assert code_with(clients.issue(("CN", "friend"))) == "NOT_FOUND"
    assert code_with(None) == "UNAVAILABLE"
    assert code_with(strangers.issue(("CN", "friend"))) == "UNAVAILABLE"


def shown_serial(address: str, files: ServerFiles) -> int:
    """Return the serial number of the certificate that a new connection gets."""
    context = ssl.create_default_context(cadata=files.authority.certificate.decode())
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port))) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        certificate = tls.getpeercert(binary_form=True)
    assert certificate
    return x509.load_der_x509_certificate(certificate).serial_number


@pytest.mark.slow
@pytest.mark.parametrize("with_key", [False, True])
def test_tls_open_connection_is_refused_after_end_of_client_certificate(
    start_server: StartServer, files: ServerFiles, keys_file: KeysFile, *, with_key: bool
) -> None:
    clients = Authority("clients")
    files.client_ca.write_bytes(clients.certificate)
    keys_file.add_certificate("CN=friend")
    bearers = [keys_file.add()] if with_key else []
    address = start_server(
        **files.settings, tls_client_ca=files.client_ca, credentials=keys_file.path
    ).address
    identity = clients.issue(("CN", "friend"), valid_for=timedelta(seconds=6))

    with caller(address, *bearers, authority=files.authority, identity=identity) as client:
        assert code_of(client) == "NOT_FOUND"
        wait_until(lambda: code_of(client) == "UNAUTHENTICATED")


@pytest.mark.slow
def test_tls_resumed_session_is_refused_after_end_of_client_certificate(
    start_server: StartServer, files: ServerFiles, tmp_path: Path
) -> None:
    clients = Authority("clients")
    files.client_ca.write_bytes(clients.certificate)
    address = start_server(**files.settings, tls_client_ca=files.client_ca).address
    identity = clients.issue(("CN", "friend"), valid_for=timedelta(seconds=6))
    identity.write(tmp_path / "client.pem", tmp_path / "client.key")
    context = ssl.create_default_context(cadata=files.authority.certificate.decode())
    context.load_cert_chain(tmp_path / "client.pem", tmp_path / "client.key")
    context.set_alpn_protocols(["h2"])

    def answer(session: ssl.SSLSession | None) -> tuple[bytes, ssl.SSLSession]:
        """Return the trailers of a call, and the session of its connection."""
        connection = Http2(address, (context, session))
        assert connection.is_resumed == (session is not None)
        connection.call("/palaver.v1.SessionService/GetSession", b"")
        trailers = next(f.payload for f in connection.received() if f.kind == HEADERS)
        session = connection.session
        connection.close()
        return trailers, session

    trailers, session = answer(None)
    assert b"session_id: " in trailers  # the call is let in, and its request is invalid
    assert b"session_id: " in answer(session)[0]
    wait_until(lambda: b"certificate has expired" in answer(session)[0])


@pytest.fixture
def served(start_server: StartServer, files: ServerFiles) -> Iterator[Client]:
    """A client on a connection of its own."""
    address = start_server(**files.settings).address
    with caller(address, authority=files.authority) as client:
        yield client


def test_tls_renewed_certificate_is_served_without_dropping_calls(
    served: Client, files: ServerFiles
) -> None:
    for number in range(100):
        served.add(f"s{number}", "x" * 1000)
    stream = served.sessions.ListAllSessions(ListAllSessionsRequest(chunk_size=1))
    next(stream)

    renewed = files.renew()
    wait_until(lambda: shown_serial(served.address, files) == renewed.serial_number)

    assert len(list(stream)) == 99
    assert code_of(served) == "NOT_FOUND"


def test_tls_incomplete_renewal_changes_nothing(
    served: Client, files: ServerFiles, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    before = shown_serial(served.address, files)
    renewed = files.authority.issue()

    files.certificate.write_bytes(renewed.certificate)
    wait_until(lambda: "the key does not belong to the certificate" in caplog.text)
    assert shown_serial(served.address, files) == before

    files.key.write_bytes(renewed.key[:100])
    wait_until(lambda: "the key must be a complete PEM key" in caplog.text)
    assert shown_serial(served.address, files) == before

    files.key.unlink()
    wait_until(lambda: "No such file" in caplog.text)
    assert shown_serial(served.address, files) == before

    files.key.write_bytes(renewed.key)
    wait_until(lambda: shown_serial(served.address, files) == renewed.serial_number)
    assert caplog.text.count("the key does not belong to the certificate") == 1, "it is logged once"
    assert "PRIVATE" not in caplog.text


def test_tls_renewed_client_authorities_apply_to_new_connections(
    start_server: StartServer, files: ServerFiles
) -> None:
    old, new = Authority("clients"), Authority("clients")
    files.client_ca.write_bytes(old.certificate)
    address = start_server(**files.settings, tls_client_ca=files.client_ca).address
    of_old, of_new = old.issue(("CN", "x")), new.issue(("CN", "x"))

    def code_with(identity: Identity) -> str:
        with caller(address, authority=files.authority, identity=identity) as client:
            return code_of(client)

    assert (code_with(of_old), code_with(of_new)) == ("NOT_FOUND", "UNAVAILABLE")
    files.client_ca.write_bytes(new.certificate)
    wait_until(lambda: code_with(of_new) == "NOT_FOUND")
    assert code_with(of_old) == "UNAVAILABLE"


@pytest.mark.parametrize("broken", ["certificate", "key", "client_ca"])
def test_tls_start_with_broken_file_is_refused(run: Run, files: ServerFiles, broken: str) -> None:
    files.client_ca.write_bytes(files.authority.certificate)
    getattr(files, broken).write_bytes(b"-----BEGIN NOTHING-----")

    with pytest.raises(CredentialsUnusable, match=str(files.certificate)):
        run(Security.load(Settings(**files.settings, tls_client_ca=files.client_ca)))


def test_tls_start_with_mismatched_key_is_refused(run: Run, files: ServerFiles) -> None:
    files.key.write_bytes(files.authority.issue().key)

    with pytest.raises(CredentialsUnusable, match="does not belong to the certificate"):
        run(Security.load(Settings(**files.settings)))
