"""Authentication by API keys and client certificates, and the policy of roles."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from palaver_server.auth.api_keys import make_key
from palaver_server.auth.roles import POLICY, Role
from tests.conftest import StartServer
from tests.support import contract
from tests.support.callers import KeysFile, caller, code_of
from tests.support.certificates import Authority
from tests.support.client import refused, wait_until
from tests.support.concurrency import Connection
from tests.support.watching import SERVING, health_of

pytestmark = pytest.mark.usefixtures("quick_looks")

NAMES = [contract.path(method) for method in contract.METHODS]


@pytest.mark.parametrize("method", contract.METHODS, ids=NAMES)
def test_authentication_without_credential_denies_every_method(
    start_server: StartServer,
    keys_file: KeysFile,
    database: Connection,
    method: MethodDescriptor,
) -> None:
    keys_file.add()
    client = start_server(credentials=keys_file.path)

    with refused(grpc.StatusCode.UNAUTHENTICATED) as refusal:
        request = contract.request_about(method, session_id="s")
        contract.send(client.channel, method, request)

    assert refusal.detail(ErrorInfo).reason == "BAD_CREDENTIALS"
    assert database.execute("SELECT FROM sessions").rowcount == 0


def test_authentication_is_not_needed_for_health_and_reflection(
    start_server: StartServer, keys_file: KeysFile
) -> None:
    keys_file.add()
    client = start_server(credentials=keys_file.path)

    assert health_of(client) == SERVING
    assert ProtoReflectionDescriptorDatabase(client.channel).get_services()


def code_with(address: str, *bearers: str, **how: Any) -> str:
    with caller(address, *bearers, **how) as client:
        return code_of(client)


def test_api_key_known_is_accepted_and_others_are_refused(
    start_server: StartServer, keys_file: KeysFile
) -> None:
    first, second = keys_file.add(), keys_file.add()
    address = start_server(credentials=keys_file.path).address

    def code_showing(*values: str) -> str:
        return code_with(address, metadata=[("authorization", value) for value in values])

    assert code_with(address, first) == code_with(address, second) == "NOT_FOUND"
    assert code_showing(f"bearer {first}") == "NOT_FOUND"
    for bad in (
        [f"Basic {first}"],
        [first],
        [""],
        ["Bearer"],
        ["Bearer "],
        [f"Bearer {first}x"],
        [f"Bearer {first[:-1]}"],
        [f"Bearer  {first}"],
        [f"Bearer {make_key()}"],
        ["Bearer not-a-key"],
        [f"Bearer {first}", f"Bearer {second}"],
    ):
        assert code_showing(*bad) == "UNAUTHENTICATED", bad


def test_api_key_rotation_takes_effect_while_running(
    start_server: StartServer, keys_file: KeysFile
) -> None:
    old = keys_file.add()
    address = start_server(credentials=keys_file.path).address
    with caller(address, old) as client:
        assert code_of(client) == "NOT_FOUND"

        new = keys_file.add()
        wait_until(lambda: code_with(address, new) == "NOT_FOUND")
        assert code_of(client) == "NOT_FOUND"

        keys_file.remove(old)
        wait_until(lambda: code_of(client) == "UNAUTHENTICATED")
        assert code_with(address, new) == "NOT_FOUND"


@pytest.mark.parametrize(
    "broken", ["[[key]\n", '[[key]]\nname = "x"\nrole = "god"\n', "\x00", None]
)
def test_credentials_file_that_is_invalid_keeps_previous_keys(
    start_server: StartServer,
    keys_file: KeysFile,
    caplog: pytest.LogCaptureFixture,
    broken: str | None,
) -> None:
    key = keys_file.add()
    address = start_server(credentials=keys_file.path).address

    if broken is None:
        keys_file.path.unlink()
    else:
        keys_file.path.write_text(broken)
    wait_until(lambda: "the previous content stays in use" in caplog.text)

    assert code_with(address, key) == "NOT_FOUND"


@pytest.mark.parametrize("emptied", ["", "# revoked\n"])
def test_credentials_file_that_is_emptied_revokes_all_keys(
    start_server: StartServer, keys_file: KeysFile, emptied: str
) -> None:
    key = keys_file.add()
    address = start_server(credentials=keys_file.path).address
    assert code_with(address, key) == "NOT_FOUND"

    keys_file.path.write_text(emptied)

    wait_until(lambda: code_with(address, key) == "UNAUTHENTICATED")
    address = start_server(credentials=keys_file.path).address
    assert code_with(address, key) == "UNAUTHENTICATED"
    assert code_with(address) == "UNAUTHENTICATED"


def test_credentials_file_that_is_invalid_beyond_grace_denies_all_keys(
    start_server: StartServer, keys_file: KeysFile
) -> None:
    key = keys_file.add()
    valid = keys_file.path.read_text()
    address = start_server(credentials=keys_file.path, credentials_grace_seconds=0.2).address

    keys_file.path.write_text("[[key]")
    wait_until(lambda: code_with(address, key) == "UNAVAILABLE")

    keys_file.path.write_text(valid)
    wait_until(lambda: code_with(address, key) == "NOT_FOUND")


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def tls(authority: Authority, tmp_path: Path) -> dict[str, Path]:
    """The settings of mutual TLS; one authority issues all certificates."""
    certificate, key, ca = (tmp_path / name for name in ("s.pem", "s.key", "ca.pem"))
    authority.issue().write(certificate, key)
    ca.write_bytes(authority.certificate)
    return {"tls_certificate": certificate, "tls_key": key, "tls_client_ca": ca}


def test_client_certificate_is_matched_by_subject(
    start_server: StartServer, keys_file: KeysFile, authority: Authority, tls: dict[str, Path]
) -> None:
    keys_file.add_certificate("CN=ingest,OU=a\\+b,O=Example\\, Inc.,C=NG")
    address = start_server(credentials=keys_file.path, **tls).address

    def code_as(*subject: tuple[str, str]) -> str:
        return code_with(address, authority=authority, identity=authority.issue(*subject))

    parts = (("C", "NG"), ("O", "Example, Inc."), ("OU", "a+b"), ("CN", "ingest"))
    assert code_as(*parts) == "NOT_FOUND"
    assert code_as(*parts[:3], ("CN", "ingest2")) == "UNAUTHENTICATED"
    assert code_as(*parts[3:]) == "UNAUTHENTICATED"
    assert code_as(("CN", "ingest,OU=a\\+b,O=Example\\, Inc.,C=NG")) == "UNAUTHENTICATED"


def test_api_key_even_if_invalid_precedes_certificate(
    start_server: StartServer, keys_file: KeysFile, authority: Authority, tls: dict[str, Path]
) -> None:
    keys_file.add_certificate("CN=writer", Role.WRITER)
    reader = keys_file.add(Role.READER)
    address = start_server(credentials=keys_file.path, **tls).address
    how: dict[str, Any] = {
        "authority": authority,
        "identity": authority.issue(("CN", "writer")),
    }

    with (
        caller(address, reader, **how) as client,
        refused(grpc.StatusCode.PERMISSION_DENIED),
    ):
        client.add_session("s")
    assert code_with(address, make_key(), **how) == "UNAUTHENTICATED"


def test_policy_has_exactly_one_row_per_method() -> None:
    assert sorted(POLICY) == sorted(NAMES)


def code_when(send: Callable[[], object]) -> grpc.StatusCode:
    try:
        send()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("method", contract.METHODS, ids=NAMES)
def test_policy_role_may_call_its_methods_only(
    start_server: StartServer, keys_file: KeysFile, method: MethodDescriptor
) -> None:
    keys = {role: keys_file.add(role) for role in Role}
    address = start_server(credentials=keys_file.path).address

    for role, key in keys.items():
        with caller(address, key) as client:
            request = contract.request_about(method, session_id="s")
            send = partial(contract.send, client.channel, method, request)
            if role >= POLICY[contract.path(method)]:
                assert code_when(send) != grpc.StatusCode.PERMISSION_DENIED
                continue
            with refused(grpc.StatusCode.PERMISSION_DENIED) as refusal:
                send()
            assert refusal.detail(ErrorInfo).reason == "ROLE_TOO_LOW"


def test_policy_method_without_row_is_denied(
    start_server: StartServer, keys_file: KeysFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = "/palaver.v1.SessionService/GetSession"
    shorter = {name: role for name, role in POLICY.items() if name != method}
    monkeypatch.setattr("palaver_server.interceptors.authorization.POLICY", shorter)
    admin = keys_file.add(Role.ADMIN)
    address = start_server(credentials=keys_file.path).address

    assert code_with(address, admin) == "PERMISSION_DENIED"


def test_authentication_logs_no_secret(
    start_server: StartServer, keys_file: KeysFile, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    known, unknown = keys_file.add(), make_key()
    address = start_server(credentials=keys_file.path).address

    code_with(address, known)
    with caller(address, unknown) as client, refused(grpc.StatusCode.UNAUTHENTICATED) as refusal:
        client.get_session("s")

    assert unknown not in str(refusal.status)
    assert known not in caplog.text
    assert unknown not in caplog.text
