"""Finds out whom a call's credential stands for."""

from typing import TYPE_CHECKING

from palaver_server.auth.api_keys import PREFIX
from palaver_server.auth.hot_reload import Reloaded
from palaver_server.auth.principal import Principal
from palaver_server.auth.registry import Registry
from palaver_server.errors import Unauthenticated

if TYPE_CHECKING:
    from palaver_server.auth.tokens import Tokens


class Authenticator:
    """Knows API keys, client certificates and tokens, as far as they are set up.

    Args:
        registry: The API keys and client certificates, if there is a file of them.
        tokens: What verifies tokens, if there are keys for it.
    """

    def __init__(self, registry: Reloaded[Registry] | None, tokens: "Tokens | None") -> None:
        self._registry = registry
        self._tokens = tokens

    async def find(self, authorization: str | None, subject: str | None) -> Principal:
        """Gives whom a call's credential stands for.

        Args:
            authorization: The call's metadata of this name, if it has some. A bad one is
                not made good by a certificate.
            subject: The subject of the client's certificate (RFC 2253), if it has one.

        Raises:
            Unauthenticated: There is no credential, or it is not good.
            PermissionDenied: It is a good token, without a role.
        """
        if authorization is not None:
            return await self._bearer(authorization)
        known = self._registry.value.subjects if self._registry else {}
        principal = known.get(subject) if subject else None
        if principal is None:
            raise Unauthenticated(
                "the call has no metadata 'authorization', and no client certificate that is known"
            )
        return principal

    async def _bearer(self, authorization: str) -> Principal:
        scheme, _, credential = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated("authorization must be 'Bearer' and an API key or a token")
        if credential.startswith(PREFIX) or self._tokens is None:
            principal = self._registry.value.keys.find(credential) if self._registry else None
            if principal is None:
                raise Unauthenticated("the API key is not known")
            return principal
        return await self._tokens.find(credential)
