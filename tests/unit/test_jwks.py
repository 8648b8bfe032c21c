"""JWKS: accepted keys, their algorithms, and refused keys."""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from palaver_server.auth.jwks import KeySet
from tests.support.tokens import SigningKey

RSA, EC, SECRET = (SigningKey(algorithm) for algorithm in ("RS256", "ES256", "HS256"))


def parsed(*jwks: dict[str, Any], with_secrets: bool = True) -> KeySet:
    return KeySet.parse(json.dumps({"keys": jwks}).encode(), with_secrets=with_secrets)


def algorithm(keys: KeySet, key_id: str | None) -> str | None:
    key = keys.find(key_id)
    return key.algorithm if key else None


@pytest.mark.parametrize("key", [RSA, EC, SECRET], ids=lambda key: key.algorithm)
def test_jwks_key_type_determines_algorithm(key: SigningKey) -> None:
    keys = parsed(key.jwk)

    assert algorithm(keys, key.key_id) == algorithm(keys, None) == key.algorithm
    assert algorithm(parsed({**key.jwk, "alg": key.algorithm}), None) == key.algorithm
    assert keys.find("another") is None
    assert keys.find(["another"]) is None


def p384() -> dict[str, Any]:
    public = ec.generate_private_key(ec.SECP384R1()).public_key()
    return ECAlgorithm.to_jwk(public, as_dict=True)


LEFT_OUT = {
    "encryption": {**RSA.jwk, "use": "enc"},
    "another algorithm": {**RSA.jwk, "alg": "RS512"},
    "an algorithm of another type": {**RSA.jwk, "alg": "HS256"},
    "no algorithm": {**SECRET.jwk, "alg": "none"},
    "another curve": p384(),
    "another type": {"kty": "OKP", "crv": "Ed25519", "x": "AA"},
    "an odd type": {"kty": ["RSA"]},
    "no type": {"kid": "x"},
}


@pytest.mark.parametrize("jwk", LEFT_OUT.values(), ids=LEFT_OUT)
def test_jwks_key_of_other_use_is_left_out(jwk: dict[str, Any]) -> None:
    keys = parsed({**jwk, "kid": "other"}, EC.jwk)

    assert (len(keys), keys.ignored) == (1, 0)
    assert algorithm(keys, None) == "ES256"


def test_jwks_secrets_are_accepted_only_where_allowed() -> None:
    assert len(parsed(SECRET.jwk)) == 1
    assert len(parsed(SECRET.jwk, with_secrets=False)) == 0


IGNORED = {
    "a private key": (
        {**RSAAlgorithm.to_jwk(RSA.key, as_dict=True), "kid": "secret stuff"},
        "must not have a private key",
    ),
    "a short RSA key": (
        RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key(), as_dict=True),
        "must have at least 2,048 bits; got 1,024",
    ),
    "a short secret": (
        {"kty": "oct", "k": "c2VjcmV0IHN0dWZm"},
        "must have at least 32 bytes; got 12",
    ),
    "half a key": ({"kty": "RSA", "n": RSA.jwk["n"]}, "is malformed"),
    "an odd key": ({"kty": "EC", "crv": "P-256", "x": 7, "y": 8}, "is malformed"),
    "a point off the curve": ({**EC.jwk, "kid": "x", "x": EC.jwk["y"]}, "is malformed"),
    "a huge exponent": ({**RSA.jwk, "kid": "x", "e": RSA.jwk["n"]}, "is malformed"),
    "an odd kid": ({**EC.jwk, "kid": ["secret stuff"]}, "kid must be a string"),
    "a duplicate kid": ({**RSA.jwk, "kid": EC.key_id}, "must not have the kid of an earlier key"),
    "no object": ("secret stuff", "must be an object"),
}


@pytest.mark.parametrize(("jwk", "problem"), IGNORED.values(), ids=IGNORED)
def test_jwks_invalid_key_is_ignored_and_logged_unquoted(
    jwk: Any, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    if isinstance(jwk, dict):
        jwk = {name: value for name, value in jwk.items() if name != "key_ops"}

    keys = parsed(EC.jwk, jwk, SECRET.jwk)

    assert (len(keys), keys.ignored) == (2, 1)
    assert algorithm(keys, EC.key_id) == "ES256"
    assert algorithm(keys, SECRET.key_id) == "HS256"
    assert f"ignored 1 of the JWT keys: keys[1]: {problem}" in caplog.text
    assert "c2VjcmV0IHN0dWZm" not in caplog.text
    assert "secret stuff" not in caplog.text


def test_jwks_many_invalid_keys_are_logged_briefly(caplog: pytest.LogCaptureFixture) -> None:
    assert parsed(*[{"kty": "RSA"}] * 1000).ignored == 1000
    assert len(caplog.text) < 1000


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"keys": {}}', b"[" * 99999, b"\xff"])
def test_jwks_that_is_no_key_set_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="JSON Web Key Set"):
        KeySet.parse(content, with_secrets=True)
