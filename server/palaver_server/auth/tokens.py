"""JSON Web Tokens: verified, and turned into principals."""

import asyncio
import hashlib
import time
from dataclasses import dataclass
from typing import Any

import jwt

from palaver_server.auth.hot_reload import Reloaded
from palaver_server.auth.jwks import KeySet, VerificationKey
from palaver_server.auth.principal import Principal, Role
from palaver_server.errors import PermissionDenied, Unauthenticated

# A key of an unknown id may be a new one; but ids can be made up, and fetching costs.
SECONDS_BETWEEN_SEARCHES = 10.0

_MAX_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a token must say.

    Attributes:
        issuer: Who must have issued it.
        audience: For whom it must be, among others.
        leeway: Seconds by which clocks may differ.
        role_claim: The claim that has its role, or a list with roles, of which the highest
            counts.
        user_id_claim: The claim that has the user whom it is bound to, which then must be
            there; None: tokens are bound to nobody.
    """

    issuer: str
    audience: str
    leeway: float
    role_claim: str
    user_id_claim: str | None


class Tokens:
    """Verifies tokens, and remembers the good ones until they expire or the keys change."""

    def __init__(self, keys: Reloaded[KeySet], rules: TokenRules) -> None:
        self._keys = keys
        self._rules = rules
        self._remembered: dict[bytes, tuple[float, Principal]] = {}
        self._remembered_by: KeySet = keys.value
        self._search = asyncio.Lock()
        self._searched_at = float("-inf")

    async def find(self, token: str) -> Principal:
        """Gives whom a token stands for.

        Raises:
            Unauthenticated: The token is no good.
            PermissionDenied: It is, but has no role here.
        """
        digest = hashlib.sha256(token.encode()).digest()
        principal = self._recall(digest)
        if principal is None:
            claims = _verified_claims(token, await self._key(token), self._rules)
            principal = _principal(claims, self._rules)
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[digest] = (int(claims["exp"]) + self._rules.leeway, principal)
        return principal

    def _recall(self, digest: bytes) -> Principal | None:
        if self._remembered_by is not self._keys.value:
            self._remembered_by = self._keys.value
            self._remembered.clear()
        expires_at, principal = self._remembered.get(digest, (0.0, None))
        return principal if time.time() < expires_at else None

    async def _key(self, token: str) -> VerificationKey:
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
        except (jwt.InvalidTokenError, RecursionError):
            raise Unauthenticated("this is neither a known API key nor a token") from None
        key = self._keys.value.find(key_id)
        if key is None:
            await self._search_keys()
            key = self._keys.value.find(key_id)
        if key is None:
            raise Unauthenticated("the token is signed with an unknown key")
        return key

    async def _search_keys(self) -> None:
        async with self._search:  # callers who come meanwhile wait for the same answer
            if time.monotonic() - self._searched_at >= SECONDS_BETWEEN_SEARCHES:
                await self._keys.reload()
                self._searched_at = time.monotonic()


def _verified_claims(token: str, key: VerificationKey, rules: TokenRules) -> dict[str, Any]:
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            key.key,
            algorithms=[key.algorithm],
            issuer=rules.issuer,
            audience=rules.audience,
            leeway=rules.leeway,
            options={"require": ["exp", "iss", "aud", "sub"]},
        )
    except jwt.ExpiredSignatureError:
        raise Unauthenticated("the token has expired") from None
    except jwt.ImmatureSignatureError:
        raise Unauthenticated("the token is not valid yet") from None
    except jwt.InvalidAudienceError:
        raise Unauthenticated("the token is for another audience") from None
    except jwt.InvalidIssuerError:
        raise Unauthenticated("the token is of another issuer") from None
    except jwt.MissingRequiredClaimError as error:
        raise Unauthenticated(f"the token has no claim {error.claim!r}") from None
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
        raise Unauthenticated("the token is malformed, or its signature is not good") from None
    return claims


def _principal(claims: dict[str, Any], rules: TokenRules) -> Principal:
    named = claims.get(rules.role_claim)
    roles = [role for role in Role if role.name.lower() in _strings(named)]
    if not roles:
        raise PermissionDenied(
            "NO_ROLE", f"the token's claim {rules.role_claim!r} names no role of this service"
        )
    user_id = None
    if rules.user_id_claim is not None:
        user_id = claims.get(rules.user_id_claim)
        if not isinstance(user_id, str):
            raise Unauthenticated(f"the token has no claim {rules.user_id_claim!r}")
    try:
        return Principal(claims["sub"], max(roles), user_id)
    except ValueError as error:
        raise Unauthenticated(f"the token cannot be used: {error}") from None


def _strings(claim: Any) -> list[Any]:
    return claim if isinstance(claim, list) else [claim]
