"""Key sets (JWKS, RFC 7517): the keys that verify tokens."""

import json
from dataclasses import dataclass
from typing import Any

from jwt import PyJWK, PyJWTError

# By the type of key. Everything else is left out, `none` first of all.
_ALGORITHMS = {"RSA": "RS256", "EC": "ES256", "oct": "HS256"}

_LEAST_RSA_BITS = 2048
_LEAST_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A key, and the one algorithm that it is for: the key's type says it, never a token."""

    algorithm: str
    key: Any


class KeySet:
    """Keys by their ids."""

    def __init__(self, keys: dict[str | None, VerificationKey]) -> None:
        self._keys = keys

    @classmethod
    def parse(cls, content: bytes, *, with_secrets: bool) -> "KeySet":
        """Reads the JSON of a key set. Keys for other uses and algorithms are left out.

        Args:
            content: The JSON.
            with_secrets: Whether keys of HS256 count. Who can read one can sign with it,
                so that it has no place where a public key set is.

        Raises:
            ValueError: It is no key set, or has no key that can be used. The text tells
                nothing of the keys.
        """
        keys: dict[str | None, VerificationKey] = {}
        for fields in _key_fields(content):
            algorithm = _algorithm(fields)
            if algorithm is None or (algorithm == "HS256" and not with_secrets):
                continue
            key = VerificationKey(algorithm, _key(fields, algorithm))
            if keys.setdefault(fields.get("kid"), key) is not key:
                raise ValueError("two keys have the same kid")
        if not keys:
            raise ValueError("has no key for RS256, ES256 or HS256 that can be used")
        return cls(keys)

    def find(self, key_id: object) -> VerificationKey | None:
        """Gives the key of this id; for a token that names none, the only key."""
        if key_id is None and len(self._keys) == 1:
            (key,) = self._keys.values()
            return key
        return self._keys.get(key_id) if isinstance(key_id, str) else None


def _key_fields(content: bytes) -> list[dict[str, Any]]:
    try:
        keys = json.loads(content)["keys"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError("is no JSON Web Key Set") from None
    if not isinstance(keys, list) or not all(isinstance(fields, dict) for fields in keys):
        raise ValueError("is no JSON Web Key Set")
    return keys


def _algorithm(fields: dict[str, Any]) -> str | None:
    """Gives the algorithm of a key, if it is for one that is used here."""
    algorithm = _ALGORITHMS.get(str(fields.get("kty")))
    fits = (
        fields.get("use", "sig") == "sig"
        and fields.get("alg", algorithm) == algorithm
        and (algorithm != "ES256" or fields.get("crv") == "P-256")
    )
    return algorithm if fits else None


def _key(fields: dict[str, Any], algorithm: str) -> Any:
    if not isinstance(fields.get("kid", ""), str):
        raise ValueError("has a kid that is no string")
    if algorithm != "HS256" and "d" in fields:
        raise ValueError("has a private key; it belongs to those who sign alone")
    try:
        key: Any = PyJWK(fields, algorithm).key
    except (PyJWTError, ValueError, TypeError, KeyError):
        raise ValueError("has a malformed key") from None  # the library quotes it
    if algorithm == "RS256" and key.key_size < _LEAST_RSA_BITS:
        raise ValueError(f"has an RSA key of fewer than {_LEAST_RSA_BITS:,} bits")
    if algorithm == "HS256" and len(key) < _LEAST_SECRET_BYTES:
        raise ValueError(f"has a secret of fewer than {_LEAST_SECRET_BYTES} bytes")
    return key
