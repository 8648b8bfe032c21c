"""API keys: creating them, and recognising them by their hashes."""

import hashlib
import hmac
import secrets
from collections.abc import Mapping

from palaver_server.auth.principal import Principal

# Distinguishes API keys from JWTs, and lets secret scanners recognise leaked keys.
PREFIX = "palaver_"


def make_key() -> str:
    """Create a key with 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def key_hash(key: str) -> str:
    """Return the hash of a key in hexadecimal digits.

    SHA-256 without a salt suffices: slow hashes protect passwords, which can be guessed, and
    256 random bits cannot.
    """
    return hashlib.sha256(key.encode()).hexdigest()


class ApiKeys:
    """The known API keys.

    Args:
        principals: The principal of each key, by the key's hash.
    """

    def __init__(self, principals: Mapping[str, Principal]) -> None:
        self._principals = tuple(principals.items())

    def find(self, key: str) -> Principal | None:
        """Return the principal of a key in constant time; None if the key is unknown."""
        wanted, found = key_hash(key), None
        for known, principal in self._principals:
            if hmac.compare_digest(known, wanted):
                found = principal
        return found
