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
    with pytest.raises(ValueError, match="must have a usable key"):
        parsed({**jwk, "kid": "other"})

    assert algorithm(parsed({**jwk, "kid": "other"}, EC.jwk), None) == "ES256"


def test_jwks_secrets_are_accepted_only_where_allowed() -> None:
    with pytest.raises(ValueError, match="must have a usable key"):
        parsed(SECRET.jwk, with_secrets=False)


REFUSED = {
    "a private key": (
        {**RSAAlgorithm.to_jwk(RSA.key, as_dict=True), "kid": "secret stuff"},
        "must not have a private key",
    ),
    "a short RSA key": (
        RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key(), as_dict=True),
        "at least 2,048 bits; got 1,024",
    ),
    "a short secret": ({"kty": "oct", "k": "c2VjcmV0IHN0dWZm"}, "at least 32 bytes; got 12"),
    "half a key": ({"kty": "RSA", "n": RSA.jwk["n"]}, "a key is malformed"),
    "an odd key": ({"kty": "EC", "crv": "P-256", "x": 7, "y": 8}, "a key is malformed"),
    "an odd kid": ({**EC.jwk, "kid": ["secret stuff"]}, "a kid must be a string"),
}


@pytest.mark.parametrize(("jwk", "problem"), REFUSED.values(), ids=REFUSED)
def test_jwks_invalid_key_is_refused_unquoted(jwk: dict[str, Any], problem: str) -> None:
    jwk = {name: value for name, value in jwk.items() if name != "key_ops"}

    with pytest.raises(ValueError, match=problem) as raised:
        parsed(EC.jwk, jwk)

    assert "c2VjcmV0IHN0dWZm" not in str(raised.value)
    assert "secret stuff" not in str(raised.value)


def test_jwks_duplicate_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="same kid"):
        parsed(EC.jwk, {**RSA.jwk, "kid": EC.key_id})


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"keys": {}}', b'{"keys": [1]}', b"[" * 99999, b"\xff"]
)
def test_jwks_that_is_no_key_set_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="JSON Web Key Set"):
        KeySet.parse(content, with_secrets=True)
