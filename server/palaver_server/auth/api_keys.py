"""API keys: made, and recognised by their hashes."""

import hashlib
import hmac
import secrets
from collections.abc import Mapping

from palaver_server.auth.principal import Principal

# Tells keys from tokens, and leaked ones from other text.
PREFIX = "palaver_"


def make_key() -> str:
    """Makes a key of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def key_hash(key: str) -> str:
    """Hashes a key, in hexadecimal digits.

    A plain SHA-256 will do: it is slow hashes that passwords need, which can be guessed.
    """
    return hashlib.sha256(key.encode()).hexdigest()


class ApiKeys:
    """The known keys.

    Args:
        principals: Whom each key stands for, by the key's hash.
    """

    def __init__(self, principals: Mapping[str, Principal]) -> None:
        self._principals = tuple(principals.items())

    def find(self, key: str) -> Principal | None:
        """Gives whom a key stands for. How long it takes tells nothing about the keys."""
        wanted, found = key_hash(key), None
        for known, principal in self._principals:
            if hmac.compare_digest(known, wanted):
                found = principal
        return found
