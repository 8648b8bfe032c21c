"""JSON Web Tokens: verifying them, and turning their claims into principals."""

import asyncio
import hashlib
import time
from dataclasses import dataclass
from typing import Any

import jwt

from palaver_server.auth.hot_reload import HotReloaded
from palaver_server.auth.jwks import KeySet, VerificationKey
from palaver_server.auth.principal import Principal
from palaver_server.auth.roles import Role
from palaver_server.errors import PermissionDenied, Unauthenticated

# An unknown key ID may belong to a new key, so the key set is reloaded. The interval limits
# the reloads that made-up key IDs can cause.
MIN_KEY_REFRESH_INTERVAL_SECONDS = 10.0

_MAX_CACHED_TOKENS = 10_000


@dataclass(frozen=True, slots=True)
class TokenRules:
    """The claims that a token must have.

    Attributes:
        issuer: The required issuer.
        audience: The required audience; a token may have others too.
        leeway_seconds: Tolerated difference between clocks.
        role_claim: The claim with the role or a list of roles, of which the highest counts.
        user_id_claim: The required claim with the user that the token is bound to; None if
            tokens are not bound to users.
    """

    issuer: str
    audience: str
    leeway_seconds: float
    role_claim: str
    user_id_claim: str | None


class TokenVerifier:
    """The verifier of tokens; it caches valid ones until they expire or the keys change."""

    def __init__(self, keys: HotReloaded[KeySet], rules: TokenRules) -> None:
        self._keys = keys
        self._rules = rules
        self._cache: dict[bytes, tuple[float, Principal]] = {}
        self._cache_keys: KeySet = keys.value
        self._refresh: asyncio.Task[None] | None = None
        self._refreshed_at = float("-inf")

    async def verify(self, token: str) -> Principal:
        """Return the principal of a token.

        Raises:
            Unauthenticated: The token is invalid.
            PermissionDenied: The token is valid but names no role.
        """
        digest = hashlib.sha256(token.encode()).digest()
        principal = self._cached(digest)
        if principal is None:
            claims = _verified_claims(token, await self._key(token), self._rules)
            principal = _principal(claims, self._rules)
            if len(self._cache) >= _MAX_CACHED_TOKENS:
                self._cache.clear()
            expires_at = int(claims["exp"]) + self._rules.leeway_seconds
            self._cache[digest] = (expires_at, principal)
        return principal

    def _cached(self, digest: bytes) -> Principal | None:
        if self._cache_keys is not self._keys.value:
            self._cache_keys = self._keys.value
            self._cache.clear()
        expires_at, principal = self._cache.get(digest, (0.0, None))
        return principal if time.time() < expires_at else None

    async def _key(self, token: str) -> VerificationKey:
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
        except (jwt.InvalidTokenError, RecursionError):
            raise Unauthenticated(
                "authorization: must have a known API key or a JSON Web Token"
            ) from None
        key = self._keys.value.find(key_id)
        if key is None:
            await self._refresh_keys()
            key = self._keys.value.find(key_id)
        if key is None:
            raise Unauthenticated("the token is signed with an unknown key")
        return key

    async def _refresh_keys(self) -> None:
        """Reload the keys, or wait for the reload that runs, unless the last one is too recent."""
        # A task of its own: the callers that wait for it may be cancelled, and a cancelled reload
        # would not count against the limit.
        is_running = self._refresh is not None and not self._refresh.done()
        elapsed = time.monotonic() - self._refreshed_at
        if not is_running and elapsed >= MIN_KEY_REFRESH_INTERVAL_SECONDS:
            self._refreshed_at = time.monotonic()
            self._refresh = asyncio.create_task(self._keys.reload())
        if self._refresh is not None:
            await asyncio.shield(self._refresh)


def _verified_claims(token: str, key: VerificationKey, rules: TokenRules) -> dict[str, Any]:
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            key.key,
            algorithms=[key.algorithm],
            issuer=rules.issuer,
            audience=rules.audience,
            leeway=rules.leeway_seconds,
            options={"require": ["exp", "iss", "aud", "sub"]},
        )
    except jwt.ExpiredSignatureError:
        raise Unauthenticated("the token has expired") from None
    except jwt.ImmatureSignatureError:
        raise Unauthenticated("the token is not valid yet") from None
    except jwt.InvalidAudienceError:
        raise Unauthenticated("the token is for another audience") from None
    except jwt.InvalidIssuerError:
        raise Unauthenticated("the token is from another issuer") from None
    except jwt.MissingRequiredClaimError as error:
        raise Unauthenticated(f"the token must have the claim {error.claim!r}") from None
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
        raise Unauthenticated("the token is malformed, or its signature is invalid") from None
    return claims


def _principal(claims: dict[str, Any], rules: TokenRules) -> Principal:
    named = claims.get(rules.role_claim)
    roles = [role for role in Role if role.name.lower() in _items(named)]
    if not roles:
        raise PermissionDenied(
            "NO_ROLE",
            f"the token's claim {rules.role_claim!r} must name a role: reader, writer or admin",
        )
    user_id = None
    if rules.user_id_claim is not None:
        user_id = claims.get(rules.user_id_claim)
        if not isinstance(user_id, str):
            raise Unauthenticated(
                f"the token must have the claim {rules.user_id_claim!r}, which is a string"
            )
    try:
        return Principal(claims["sub"], max(roles), user_id)
    except ValueError as error:
        raise Unauthenticated(f"the token cannot be used: {error}") from None


def _items(claim: Any) -> list[Any]:
    return claim if isinstance(claim, list) else [claim]
