"""Who is let in: by API key, by client certificate, and nobody without."""

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

from palaver.v1.session_service_pb2 import AddSessionRequest, GetSessionRequest
from palaver_server.auth.api_keys import make_key
from palaver_server.auth.roles import POLICY, Role
from tests.conftest import StartServer
from tests.support import contract
from tests.support.callers import KeysFile, caller
from tests.support.certificates import Authority
from tests.support.client import Client, refused, wait_until
from tests.support.concurrency import Connection
from tests.support.watching import SERVING, health_of

pytestmark = pytest.mark.usefixtures("quick_looks")

NAMES = [contract.path(method) for method in contract.METHODS]


def code_of(client: Client) -> str:
    """Asks for a session that is not there, and gives the code: NOT_FOUND if it got through."""
    with pytest.raises(grpc.RpcError) as raised:
        client.sessions.GetSession(GetSessionRequest(session_id="no such"), timeout=20)
    return str(raised.value.code().name)


def code_with(address: str, *bearers: str, **how: Any) -> str:
    with caller(address, *bearers, **how) as client:
        return code_of(client)


@pytest.mark.parametrize("method", contract.METHODS, ids=NAMES)
def test_without_a_credential_no_method_does_anything(
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


def test_health_and_reflection_need_no_credential(
    start_server: StartServer, keys_file: KeysFile
) -> None:
    keys_file.add()
    client = start_server(credentials=keys_file.path)

    assert health_of(client) == SERVING
    assert ProtoReflectionDescriptorDatabase(client.channel).get_services()


def test_reflection_follows_its_setting(start_server: StartServer) -> None:
    client = start_server(reflection=False)

    with pytest.raises(grpc.RpcError) as raised:
        ProtoReflectionDescriptorDatabase(client.channel).get_services()
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert health_of(client) == SERVING


def test_a_known_key_is_let_in_and_everything_else_is_not(
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


def test_keys_are_rotated_while_the_server_runs(
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
    "broken", ["", "[[key]\n", '[[key]]\nname = "x"\nrole = "god"\n', "\x00", None]
)
def test_a_file_that_is_no_good_leaves_all_as_it_was(
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


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def tls(authority: Authority, tmp_path: Path) -> dict[str, Path]:
    """The settings of mutual TLS, all by one authority."""
    certificate, key, ca = (tmp_path / name for name in ("s.pem", "s.key", "ca.pem"))
    authority.issue().write(certificate, key)
    ca.write_bytes(authority.certificate)
    return {"tls_certificate": certificate, "tls_key": key, "tls_client_ca": ca}


def test_a_client_certificate_is_known_by_its_subject(
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


def test_a_key_counts_for_more_than_a_certificate_even_if_it_is_bad(
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
        client.sessions.AddSession(AddSessionRequest(session_id="s"))
    assert code_with(address, make_key(), **how) == "UNAUTHENTICATED"


def test_every_method_has_a_row_in_the_policy_and_every_row_a_method() -> None:
    assert sorted(POLICY) == sorted(NAMES)


@pytest.mark.parametrize("method", contract.METHODS, ids=NAMES)
def test_a_role_may_do_what_the_policy_says(
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


def code_when(send: Callable[[], object]) -> grpc.StatusCode:
    try:
        send()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_a_method_without_a_row_is_nobodys(
    start_server: StartServer, keys_file: KeysFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = "/palaver.v1.SessionService/GetSession"
    shorter = {name: role for name, role in POLICY.items() if name != method}
    monkeypatch.setattr("palaver_server.interceptors.authorization.POLICY", shorter)
    admin = keys_file.add(Role.ADMIN)
    address = start_server(credentials=keys_file.path).address

    assert code_with(address, admin) == "PERMISSION_DENIED"


def test_no_secret_shows_in_the_log(
    start_server: StartServer, keys_file: KeysFile, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    known, unknown = keys_file.add(), make_key()
    address = start_server(credentials=keys_file.path).address

    code_with(address, known)
    with caller(address, unknown) as client, refused(grpc.StatusCode.UNAUTHENTICATED) as refusal:
        client.sessions.GetSession(GetSessionRequest(session_id="s"))

    assert unknown not in str(refusal.status)
    assert known not in caplog.text
    assert unknown not in caplog.text
