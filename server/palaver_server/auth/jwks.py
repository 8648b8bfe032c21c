"""JSON Web Key Sets (JWKS, RFC 7517): the keys that verify JWTs."""

import json
import logging
from dataclasses import dataclass
from typing import Any

from jwt import PyJWK

_LOGGER = logging.getLogger(__name__)

# The one algorithm for each type of key. Keys of other types are ignored; the algorithm
# `none` has no key at all.
_ALGORITHMS = {"RSA": "RS256", "EC": "ES256", "oct": "HS256"}

_MIN_RSA_BITS = 2048
_MIN_SECRET_BYTES = 32

# Bounds the log line about ignored keys.
_MAX_LOGGED_KEYS = 5


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A key and its algorithm, which follows from the type of the key, never from a token."""

    algorithm: str
    key: Any


class KeySet:
    """Verification keys by their key IDs.

    Args:
        keys: The keys.
        ignored: The number of keys that were ignored because they are invalid or weak.
    """

    def __init__(self, keys: dict[str | None, VerificationKey], *, ignored: int = 0) -> None:
        self._keys = keys
        self.ignored = ignored

    def __len__(self) -> int:
        """Return the number of keys that can be used."""
        return len(self._keys)

    @classmethod
    def parse(cls, content: bytes, *, with_secrets: bool) -> "KeySet":
        """Parse the JSON of a key set.

        Keys for other uses and algorithms are left out. A key that is malformed, weak, or has the
        ID of an earlier key is ignored and logged, as RFC 7517, section 5 asks: the other keys
        take effect, so that a key withdrawn at the same time ends.

        Args:
            content: The JSON.
            with_secrets: Whether to use HS256 keys. Everyone who can read such a key can sign
                with it, so they must not come from a URL.

        Raises:
            ValueError: The JSON is no key set. The text contains nothing of the keys.
        """
        keys: dict[str | None, VerificationKey] = {}
        problems: list[str] = []
        for position, fields in enumerate(_keys_of(content)):
            try:
                algorithm = _algorithm(fields)
                if algorithm is None or (algorithm == "HS256" and not with_secrets):
                    continue
                key = VerificationKey(algorithm, _key(fields, algorithm))
                if keys.setdefault(fields.get("kid"), key) is not key:
                    raise ValueError("must not have the kid of an earlier key")
            except ValueError as error:
                problems.append(f"keys[{position}]: {error}")
        if problems:
            unlogged = len(problems) - _MAX_LOGGED_KEYS
            rest = [f"and {unlogged:,} more"] if unlogged > 0 else []
            _LOGGER.warning(
                "ignored %d of the JWT keys: %s",
                len(problems),
                "; ".join([*problems[:_MAX_LOGGED_KEYS], *rest]),
            )
        return cls(keys, ignored=len(problems))

    def find(self, key_id: object) -> VerificationKey | None:
        """Return the key with this ID, or the only key for a token without a key ID."""
        if key_id is None and len(self._keys) == 1:
            (key,) = self._keys.values()
            return key
        return self._keys.get(key_id) if isinstance(key_id, str) else None


def _keys_of(content: bytes) -> list[Any]:
    try:
        keys = json.loads(content)["keys"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError("must be a JSON Web Key Set") from None
    if not isinstance(keys, list):
        raise ValueError("must be a JSON Web Key Set")
    return keys


def _algorithm(fields: Any) -> str | None:
    """Return the algorithm of a key; None if the key has another use or algorithm.

    Raises:
        ValueError: The key is not a JSON object.
    """
    if not isinstance(fields, dict):
        raise ValueError("must be an object")
    algorithm = _ALGORITHMS.get(str(fields.get("kty")))
    fits = (
        fields.get("use", "sig") == "sig"
        and fields.get("alg", algorithm) == algorithm
        and (algorithm != "ES256" or fields.get("crv") == "P-256")
    )
    return algorithm if fits else None


def _key(fields: dict[str, Any], algorithm: str) -> Any:
    if not isinstance(fields.get("kid", ""), str):
        raise ValueError("kid must be a string")
    if algorithm != "HS256" and "d" in fields:
        raise ValueError("must not have a private key: only the issuer may hold it")
    try:
        key: Any = PyJWK(fields, algorithm).key
    except Exception:  # noqa: BLE001 - PyJWT and cryptography raise errors of many kinds
        # `from None`: the library's error quotes the key.
        raise ValueError("is malformed") from None
    if algorithm == "RS256" and key.key_size < _MIN_RSA_BITS:
        raise ValueError(f"must have at least {_MIN_RSA_BITS:,} bits; got {key.key_size:,}")
    if algorithm == "HS256" and len(key) < _MIN_SECRET_BYTES:
        raise ValueError(f"must have at least {_MIN_SECRET_BYTES} bytes; got {len(key)}")
    return key
