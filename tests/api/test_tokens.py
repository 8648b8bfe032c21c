"""Tokens: which ones are accepted, which roles they carry, and how their keys change."""

import base64
import hmac
import json
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

from palaver.v1.session_service_pb2 import GetSessionRequest
from palaver_server.auth import jwt_tokens, sources
from palaver_server.auth.authenticator import MAX_AUTHORIZATION_BYTES
from palaver_server.bootstrap.security import Security
from palaver_server.config import Settings
from palaver_server.errors import CredentialsUnusable
from tests.conftest import Run, StartServer
from tests.support.callers import caller, code_of
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
    """A client without a credential, of a server that accepts tokens."""
    return start_server(jwt_keys=str(keys_path), **RULES)


def code_with(client: Client, token: str) -> str:
    return code_of(client, ("authorization", f"Bearer {token}"))


@pytest.mark.parametrize("key", [RSA, EC, SECRET], ids=lambda key: key.algorithm)
def test_token_of_each_algorithm_is_accepted(palaver: Client, key: SigningKey) -> None:
    for _ in range(2):  # the second time from the cache
        assert code_with(palaver, key.sign()) == "NOT_FOUND"
    assert code_with(palaver, key.sign(aud=["another", AUDIENCE])) == "NOT_FOUND"


def token_of_size(size: int) -> str:
    """Return a valid token of this many bytes."""
    around = size * 3 // 4 - 250  # Base64 takes four bytes for three of a claim
    tokens = (EC.sign(groups="g" * length) for length in range(around - 100, around + 100))
    return next(token for token in tokens if len(token) == size)


@pytest.mark.parametrize("beyond", [0, 1, 8 * 1024])
def test_token_beyond_16_kib_is_always_refused_and_others_never(
    palaver: Client, beyond: int
) -> None:
    token = token_of_size(MAX_AUTHORIZATION_BYTES - len("Bearer ") + beyond)

    codes = {code_with(palaver, token) for _ in range(10)}

    assert codes == {"UNAUTHENTICATED" if beyond else "NOT_FOUND"}


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
def test_token_with_wrong_claims_is_refused(palaver: Client, claims: dict[str, Any]) -> None:
    assert code_with(palaver, EC.sign(**claims)) == "UNAUTHENTICATED"


def test_token_expiry_allows_the_leeway(start_server: StartServer, keys_path: Path) -> None:
    client = start_server(jwt_keys=str(keys_path), jwt_leeway_seconds=120, **RULES)

    assert code_with(client, EC.sign(exp=int(time.time()) - 60)) == "NOT_FOUND"
    assert code_with(client, EC.sign(exp=int(time.time()) - 180)) == "UNAUTHENTICATED"


def test_token_is_not_cached_beyond_expiry(start_server: StartServer, keys_path: Path) -> None:
    client = start_server(jwt_keys=str(keys_path), jwt_leeway_seconds=0, **RULES)
    token = EC.sign(exp=int(time.time()) + 2)

    assert code_with(client, token) == "NOT_FOUND"
    wait_until(lambda: code_with(client, token) == "UNAUTHENTICATED")


def encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def signed_as_if_secret(public: bytes) -> str:
    """Return a token signed by HS256 with the public RSA key as the secret."""
    head = encoded(b'{"alg":"HS256","kid":"of RS256","typ":"JWT"}')
    body = RSA.sign().split(".")[1]
    signature = hmac.digest(public, f"{head}.{body}".encode(), "sha256")
    return f"{head}.{body}.{encoded(signature)}"


PUBLIC = RSA.key.public_key()
INFO = PublicFormat.SubjectPublicKeyInfo
MINE = ec.generate_private_key(ec.SECP256R1())
HEAD, BODY, SIGNATURE = EC.sign().split(".")

# Forged with the public keys, or with other private keys.
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
def test_token_forged_is_refused(palaver: Client, token: str) -> None:
    assert code_with(palaver, token) == "UNAUTHENTICATED"


def test_token_without_key_id_matches_the_only_key(
    start_server: StartServer, keys_path: Path
) -> None:
    keys_path.write_bytes(key_set(EC))
    client = start_server(jwt_keys=str(keys_path), **RULES)

    assert code_with(client, EC.sign({"kid": None})) == "NOT_FOUND"
    assert code_with(client, EC.sign({"kid": "another"})) == "UNAUTHENTICATED"


def test_token_with_several_roles_gets_the_highest(
    start_server: StartServer, keys_path: Path
) -> None:
    client = start_server(
        jwt_keys=str(keys_path), jwt_role_claim="https://palaver.example/roles", **RULES
    )

    def code_of_adding(roles: Any) -> str:
        token = EC.sign(**{"https://palaver.example/roles": roles})
        with caller(client.address, token) as bearer:
            try:
                bearer.add_session(f"of {roles}")
            except grpc.RpcError as error:
                return str(error.code().name)
        return "OK"

    assert code_of_adding(["reader", "writer", "gardener"]) == "OK"
    assert code_of_adding("admin") == "OK"
    assert code_of_adding(["reader"]) == "PERMISSION_DENIED"
    nothing: list[Any] = [[], "", "WRITER", "gardener", 3, {"writer": True}, None]
    for none in nothing:
        assert code_of_adding(none) == "PERMISSION_DENIED"


def test_token_without_role_is_refused_with_reason(palaver: Client) -> None:
    with (
        caller(palaver.address, EC.sign(role=None)) as client,
        refused(grpc.StatusCode.PERMISSION_DENIED) as refusal,
    ):
        client.get_session("s")

    assert refusal.detail(ErrorInfo).reason == "NO_ROLE"


def test_token_user_claim_sets_access_scope(start_server: StartServer, keys_path: Path) -> None:
    server = start_server(jwt_keys=str(keys_path), jwt_user_id_claim="sub", **RULES)
    with caller(server.address, EC.sign(sub="ada")) as ada:
        added = ada.add_session("s")
        assert added.user_id == "ada"

    assert code_with(server, EC.sign(sub="bob")) == "NOT_FOUND"
    assert code_with(server, EC.sign(sub="ada", role="admin")) == "UNAUTHENTICATED"


@pytest.mark.parametrize("user_id", [None, "", 7, ["ada"], "a\0b", "\ud800"])
def test_token_without_required_user_claim_is_refused(
    start_server: StartServer, keys_path: Path, user_id: Any
) -> None:
    server = start_server(jwt_keys=str(keys_path), jwt_user_id_claim="user_id", **RULES)

    assert code_with(server, EC.sign(user_id=user_id)) == "UNAUTHENTICATED"


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    """A web server that publishes the key of ES256."""
    with Publisher(key_set(EC)).serving() as publisher:
        yield publisher


@pytest.fixture
def of_publisher(start_server: StartServer, publisher: Publisher) -> Client:
    return start_server(jwt_keys=publisher.url, **RULES)


def test_token_with_unknown_key_id_refetches_keys(
    of_publisher: Client, publisher: Publisher
) -> None:
    new = SigningKey("ES256", "new")
    assert code_with(of_publisher, EC.sign()) == "NOT_FOUND"

    publisher.content = key_set(EC, new)

    assert code_with(of_publisher, new.sign()) == "NOT_FOUND"
    assert code_with(of_publisher, EC.sign()) == "NOT_FOUND"


def test_token_with_made_up_key_ids_does_not_refetch_repeatedly(
    of_publisher: Client, publisher: Publisher
) -> None:
    asked = publisher.count

    def try_one(number: int) -> str:
        return code_with(of_publisher, EC.sign({"kid": f"made up {number}"}))

    with ThreadPoolExecutor(8) as executor:
        codes = set(executor.map(try_one, range(40)))

    assert codes == {"UNAUTHENTICATED"}
    assert publisher.count == asked + 1


def test_token_of_withdrawn_key_is_refused(
    start_server: StartServer, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "URL_POLL_INTERVAL_SECONDS", 0.05)
    client = start_server(jwt_keys=publisher.url, **RULES)
    token, new = EC.sign(), SigningKey("ES256", "new")
    assert code_with(client, token) == "NOT_FOUND"

    publisher.content = key_set(new)

    wait_until(lambda: code_with(client, token) == "UNAUTHENTICATED")


@pytest.mark.parametrize(
    "bad",
    [{"kty": "RSA", "n": "AQAB"}, {**EC.jwk, "d": "AQAB"}, {**RSA.jwk, "kid": "new"}, 7],
    ids=["malformed", "private", "duplicate", "no object"],
)
def test_token_of_withdrawn_key_is_refused_next_to_an_invalid_key(
    of_publisher: Client, publisher: Publisher, bad: Any
) -> None:
    old, new = EC.sign(), SigningKey("ES256", "new")
    assert code_with(of_publisher, old) == "NOT_FOUND"

    publisher.content = json.dumps({"keys": [new.jwk, bad]}).encode()

    assert code_with(of_publisher, new.sign()) == "NOT_FOUND"
    assert code_with(of_publisher, old) == "UNAUTHENTICATED"


def test_token_is_refused_when_all_keys_are_withdrawn(
    of_publisher: Client, publisher: Publisher
) -> None:
    publisher.content = key_set()

    assert code_with(of_publisher, EC.sign({"kid": "new"})) == "UNAUTHENTICATED"
    assert code_with(of_publisher, EC.sign()) == "UNAUTHENTICATED"


def test_token_key_refetch_is_not_repeated_by_callers_that_cancel(
    of_publisher: Client, publisher: Publisher
) -> None:
    asked = publisher.count
    publisher.hold()

    for number in range(5):
        call = of_publisher.sessions.GetSession.future(
            GetSessionRequest(session_id="s"),
            metadata=(("authorization", f"Bearer {EC.sign({'kid': f'made up {number}'})}"),),
        )
        wait_until(lambda: publisher.count > asked)
        call.cancel()
    assert code_with(of_publisher, EC.sign()) == "NOT_FOUND"  # it waits for no fetch
    publisher.release()

    assert code_with(of_publisher, EC.sign({"kid": "made up"})) == "UNAUTHENTICATED"
    assert publisher.count == asked + 1


def test_token_key_fetch_from_dripping_publisher_ends(
    of_publisher: Client, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_FETCH_TIMEOUT_SECONDS", 0.3)
    publisher.drip = True

    assert code_with(of_publisher, EC.sign({"kid": "new"})) == "UNAUTHENTICATED"
    assert code_with(of_publisher, EC.sign()) == "NOT_FOUND"


def test_token_is_unavailable_when_keys_are_unreadable_beyond_grace(
    start_server: StartServer, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "URL_POLL_INTERVAL_SECONDS", 0.05)
    client = start_server(jwt_keys=publisher.url, credentials_grace_seconds=0.2, **RULES)
    assert code_with(client, EC.sign()) == "NOT_FOUND"

    publisher.status = 503
    wait_until(lambda: code_with(client, EC.sign()) == "UNAVAILABLE")

    publisher.status = 200
    wait_until(lambda: code_with(client, EC.sign()) == "NOT_FOUND")


@pytest.mark.parametrize(
    ("status", "content"),
    [(503, b""), (200, b"<html>"), (200, key_set(EC) + b" " * 2**20)],
)
def test_token_keys_survive_failing_publisher(
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


def test_token_key_refetch_is_repeated_after_a_while(
    of_publisher: Client, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = SigningKey("ES256", "new")
    assert code_with(of_publisher, new.sign()) == "UNAUTHENTICATED"
    publisher.content = key_set(EC, new)
    assert code_with(of_publisher, new.sign()) == "UNAUTHENTICATED"

    monkeypatch.setattr(jwt_tokens, "MIN_KEY_REFRESH_INTERVAL_SECONDS", 0)

    assert code_with(of_publisher, new.sign()) == "NOT_FOUND"


def test_token_key_redirect_is_not_followed(run: Run, publisher: Publisher) -> None:
    with Publisher(b"").serving() as redirecting:
        redirecting.status, redirecting.headers = 302, {"location": publisher.url}

        with pytest.raises(CredentialsUnusable, match="302"):
            run(Security.load(Settings(jwt_keys=redirecting.url, **RULES)))

    assert publisher.count == 0


def test_token_of_published_secret_is_refused(run: Run) -> None:
    with (
        Publisher(key_set(SECRET)).serving() as publisher,
        pytest.raises(CredentialsUnusable, match="must have a usable key"),
    ):
        run(Security.load(Settings(jwt_keys=publisher.url, **RULES)))
