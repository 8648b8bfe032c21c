"""Tokens: which are good, which are not, and how the keys behind them change."""

import base64
import hmac
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.rpc.error_details_pb2 import ErrorInfo

from palaver.v1.session_service_pb2 import AddSessionRequest, GetSessionRequest
from palaver_server.auth import jwt_tokens, sources
from palaver_server.bootstrap.security import Security
from palaver_server.config import Settings
from palaver_server.errors import CredentialsUnusable
from tests.conftest import Run, StartServer
from tests.support.callers import caller
from tests.support.client import Client, refused, wait_until
from tests.support.tokens import AUDIENCE, ISSUER, Publisher, SigningKey, key_set, signed

RULES: dict[str, Any] = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}

RSA, EC, SECRET = (SigningKey(algorithm) for algorithm in ("RS256", "ES256", "HS256"))


@pytest.fixture
def keys_path(tmp_path: Path) -> Path:
    """A file with a key of each kind."""
    path = tmp_path / "jwks.json"
    path.write_bytes(key_set(RSA, EC, SECRET))
    return path


@pytest.fixture
def palaver(start_server: StartServer, keys_path: Path) -> Client:
    """A client without a credential, of a server that takes tokens."""
    return start_server(jwt_keys=str(keys_path), **RULES)


def code_with(client: Client, token: str) -> str:
    """Asks for a session that is not there, and gives the code: NOT_FOUND if it got through."""
    with pytest.raises(grpc.RpcError) as raised:
        client.sessions.GetSession(
            GetSessionRequest(session_id="s"),
            timeout=20,
            metadata=(("authorization", f"Bearer {token}"),),
        )
    return str(raised.value.code().name)


@pytest.mark.parametrize("key", [RSA, EC, SECRET], ids=lambda key: key.algorithm)
def test_a_token_of_each_algorithm_is_let_in(palaver: Client, key: SigningKey) -> None:
    for _ in range(2):  # the second time it is remembered
        assert code_with(palaver, key.sign()) == "NOT_FOUND"
    assert code_with(palaver, key.sign(aud=["another", AUDIENCE])) == "NOT_FOUND"


NOW = int(time.time())


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": NOW - 60},
        {"exp": None},
        {"exp": "soon"},
        {"exp": 1e400},
        {"nbf": NOW + 3600},
        {"iat": NOW + 3600},
        {"aud": "another"},
        {"aud": None},
        {"aud": []},
        {"iss": "https://another.example"},
        {"iss": None},
        {"iss": ISSUER + "/"},
        {"sub": None},
        {"sub": 7},
        {"sub": "forged\nline"},
    ],
    ids=lambda claims: next(iter(claims)),
)
def test_a_token_that_says_the_wrong_thing_is_refused(
    palaver: Client, claims: dict[str, Any]
) -> None:
    assert code_with(palaver, EC.sign(**claims)) == "UNAUTHENTICATED"


def test_clocks_may_differ_by_the_leeway(start_server: StartServer, keys_path: Path) -> None:
    client = start_server(jwt_keys=str(keys_path), jwt_leeway_seconds=120, **RULES)

    assert code_with(client, EC.sign(exp=int(time.time()) - 60)) == "NOT_FOUND"
    assert code_with(client, EC.sign(exp=int(time.time()) - 180)) == "UNAUTHENTICATED"


def test_a_token_is_not_remembered_beyond_its_end(
    start_server: StartServer, keys_path: Path
) -> None:
    client = start_server(jwt_keys=str(keys_path), jwt_leeway_seconds=0, **RULES)
    token = EC.sign(exp=int(time.time()) + 2)

    assert code_with(client, token) == "NOT_FOUND"
    wait_until(lambda: code_with(client, token) == "UNAUTHENTICATED")


def encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def signed_as_if_secret(public: bytes) -> str:
    """A token signed by HS256 with what everybody knows of the RSA key."""
    head = encoded(b'{"alg":"HS256","kid":"of RS256","typ":"JWT"}')
    body = RSA.sign().split(".")[1]
    signature = hmac.digest(public, f"{head}.{body}".encode(), "sha256")
    return f"{head}.{body}.{encoded(signature)}"


PUBLIC = RSA.key.public_key()
INFO = PublicFormat.SubjectPublicKeyInfo
MINE = ec.generate_private_key(ec.SECP256R1())
HEAD, BODY, SIGNATURE = EC.sign().split(".")

# By somebody who knows the public keys, and has keys of his own.
FORGED = {
    "HS256 by the PEM": signed_as_if_secret(PUBLIC.public_bytes(Encoding.PEM, INFO)),
    "HS256 by the DER": signed_as_if_secret(PUBLIC.public_bytes(Encoding.DER, INFO)),
    "HS256 by the modulus": signed_as_if_secret(RSA.jwk["n"].encode()),
    "none": signed(None, "none", {"kid": "of RS256"}),
    "none for a secret": signed(None, "none", {"kid": "of HS256"}),
    "another key": signed(MINE, "ES256", {"kid": "of ES256"}),
    "another key, for that of RSA": signed(MINE, "ES256", {"kid": "of RS256"}),
    "another algorithm of the secret": signed(SECRET.key, "HS512", {"kid": "of HS256"}),
    "another algorithm of RSA": signed(RSA.key, "PS256", {"kid": "of RS256"}),
    "no kid, where there are several keys": EC.sign({"kid": None}),
    "an unknown critical extension": EC.sign({"crit": ["x"], "x": 1}),
    "another body": f"{HEAD}.{EC.sign(sub='admin').split('.')[1]}.{SIGNATURE}",
    "no signature": f"{HEAD}.{BODY}.",
    "two parts": f"{HEAD}.{BODY}",
    "nothing": "..",
    "a deep header": f"{encoded(b'[' * 3000)}.{BODY}.{SIGNATURE}",
}


@pytest.mark.parametrize("token", FORGED.values(), ids=FORGED)
def test_a_forged_token_is_refused(palaver: Client, token: str) -> None:
    assert code_with(palaver, token) == "UNAUTHENTICATED"


def test_a_key_that_names_no_id_is_found_if_it_is_the_only_one(
    start_server: StartServer, keys_path: Path
) -> None:
    keys_path.write_bytes(key_set(EC))
    client = start_server(jwt_keys=str(keys_path), **RULES)

    assert code_with(client, EC.sign({"kid": None})) == "NOT_FOUND"
    assert code_with(client, EC.sign({"kid": "another"})) == "UNAUTHENTICATED"


def test_the_highest_role_that_a_token_names_counts(
    start_server: StartServer, keys_path: Path
) -> None:
    client = start_server(
        jwt_keys=str(keys_path), jwt_role_claim="https://palaver.example/roles", **RULES
    )

    def code_of_adding(roles: Any) -> str:
        token = EC.sign(**{"https://palaver.example/roles": roles})
        with caller(client.address, token) as bearer:
            try:
                bearer.sessions.AddSession(AddSessionRequest(session_id=f"of {roles}"))
            except grpc.RpcError as error:
                return str(error.code().name)
        return "OK"

    assert code_of_adding(["reader", "writer", "gardener"]) == "OK"
    assert code_of_adding("admin") == "OK"
    assert code_of_adding(["reader"]) == "PERMISSION_DENIED"
    nothing: list[Any] = [[], "", "WRITER", "gardener", 3, {"writer": True}, None]
    for none in nothing:
        assert code_of_adding(none) == "PERMISSION_DENIED"


def test_a_token_without_a_role_is_told_so(palaver: Client) -> None:
    with (
        caller(palaver.address, EC.sign(role=None)) as client,
        refused(grpc.StatusCode.PERMISSION_DENIED) as refusal,
    ):
        client.sessions.GetSession(GetSessionRequest(session_id="s"))

    assert refusal.detail(ErrorInfo).reason == "NO_ROLE"


def test_a_token_is_bound_to_the_user_of_its_claim(
    start_server: StartServer, keys_path: Path
) -> None:
    server = start_server(jwt_keys=str(keys_path), jwt_user_id_claim="sub", **RULES)
    with caller(server.address, EC.sign(sub="ada")) as ada:
        added = ada.sessions.AddSession(AddSessionRequest(session_id="s"))
        assert added.user_id == "ada"

    assert code_with(server, EC.sign(sub="bob")) == "NOT_FOUND"
    assert code_with(server, EC.sign(sub="ada", role="admin")) == "UNAUTHENTICATED"


@pytest.mark.parametrize("user_id", [None, "", 7, ["ada"], "a\0b", "\ud800"])
def test_where_tokens_are_bound_one_that_is_not_is_refused(
    start_server: StartServer, keys_path: Path, user_id: Any
) -> None:
    server = start_server(jwt_keys=str(keys_path), jwt_user_id_claim="user_id", **RULES)

    assert code_with(server, EC.sign(user_id=user_id)) == "UNAUTHENTICATED"


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    """Publishes the key of ES256."""
    with Publisher(key_set(EC)).serving() as publisher:
        yield publisher


@pytest.fixture
def of_publisher(start_server: StartServer, publisher: Publisher) -> Client:
    return start_server(jwt_keys=publisher.url, **RULES)


def test_a_new_key_is_searched_when_a_token_names_it(
    of_publisher: Client, publisher: Publisher
) -> None:
    new = SigningKey("ES256", "new")
    assert code_with(of_publisher, EC.sign()) == "NOT_FOUND"

    publisher.content = key_set(EC, new)

    assert code_with(of_publisher, new.sign()) == "NOT_FOUND"
    assert code_with(of_publisher, EC.sign()) == "NOT_FOUND"


def test_made_up_key_ids_do_not_make_it_ask_and_ask(
    of_publisher: Client, publisher: Publisher
) -> None:
    asked = publisher.count

    def try_one(number: int) -> str:
        return code_with(of_publisher, EC.sign({"kid": f"made up {number}"}))

    with ThreadPoolExecutor(8) as executor:
        codes = set(executor.map(try_one, range(40)))

    assert codes == {"UNAUTHENTICATED"}
    assert publisher.count == asked + 1


def test_a_key_that_is_withdrawn_is_forgotten_with_the_tokens_it_signed(
    start_server: StartServer, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "URL_POLL_INTERVAL_SECONDS", 0.05)
    client = start_server(jwt_keys=publisher.url, **RULES)
    token, new = EC.sign(), SigningKey("ES256", "new")
    assert code_with(client, token) == "NOT_FOUND"

    publisher.content = key_set(new)

    wait_until(lambda: code_with(client, token) == "UNAUTHENTICATED")


@pytest.mark.parametrize(
    ("status", "content"),
    [(503, b""), (200, b"<html>"), (200, b'{"keys": []}'), (200, key_set(EC) + b" " * 2**20)],
)
def test_a_publisher_out_of_order_leaves_the_keys_as_they_were(
    of_publisher: Client,
    publisher: Publisher,
    caplog: pytest.LogCaptureFixture,
    status: int,
    content: bytes,
) -> None:
    publisher.status, publisher.content = status, content

    assert code_with(of_publisher, EC.sign({"kid": "new"})) == "UNAUTHENTICATED"
    assert code_with(of_publisher, EC.sign()) == "NOT_FOUND"
    assert "the previous content stays in use" in caplog.text


def test_the_search_for_new_keys_is_repeated_after_a_while(
    of_publisher: Client, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = SigningKey("ES256", "new")
    assert code_with(of_publisher, new.sign()) == "UNAUTHENTICATED"
    publisher.content = key_set(EC, new)
    assert code_with(of_publisher, new.sign()) == "UNAUTHENTICATED"

    monkeypatch.setattr(jwt_tokens, "MIN_KEY_REFRESH_INTERVAL_SECONDS", 0)

    assert code_with(of_publisher, new.sign()) == "NOT_FOUND"


def test_a_redirect_is_not_followed(run: Run, publisher: Publisher) -> None:
    with Publisher(b"").serving() as redirecting:
        redirecting.status, redirecting.headers = 302, {"location": publisher.url}

        with pytest.raises(CredentialsUnusable, match="302"):
            run(Security.load(Settings(jwt_keys=redirecting.url, **RULES)))

    assert publisher.count == 0


def test_a_secret_that_is_published_is_none(run: Run) -> None:
    with (
        Publisher(key_set(SECRET)).serving() as publisher,
        pytest.raises(CredentialsUnusable, match="must have a usable key"),
    ):
        run(Security.load(Settings(jwt_keys=publisher.url, **RULES)))
