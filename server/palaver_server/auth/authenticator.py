"""Authentication of a call by its credential: API key, JWT or client certificate."""

from typing import TYPE_CHECKING

from palaver_server.auth.api_keys import PREFIX
from palaver_server.auth.credentials_file import CredentialsFile
from palaver_server.auth.hot_reload import HotReloaded
from palaver_server.auth.principal import Principal
from palaver_server.errors import Unauthenticated

if TYPE_CHECKING:
    from palaver_server.auth.jwt_tokens import TokenVerifier

# A larger JSON Web Token would be refused by gRPC, whose limit of a call's metadata is twice this,
# with RESOURCE_EXHAUSTED, which clients retry.
MAX_AUTHORIZATION_BYTES = 16 * 1024


class Authenticator:
    """The authenticator of calls, for the kinds of credentials that are configured.

    Args:
        credentials: The API keys and client certificates; None if there is no such file.
        tokens: The verifier of JWTs; None if no keys for them are configured.
    """

    def __init__(
        self, credentials: HotReloaded[CredentialsFile] | None, tokens: "TokenVerifier | None"
    ) -> None:
        self._credentials = credentials
        self._tokens = tokens

    async def authenticate(self, authorization: str | None, subject: str | None) -> Principal:
        """Return the principal of a call.

        Args:
            authorization: The value of the call's `authorization` metadata, if present. It
                takes precedence: a certificate does not make up for a bad key or token.
            subject: The subject of the client certificate, if there is one.

        Raises:
            Unauthenticated: The credential is missing or invalid.
            PermissionDenied: The token is valid but names no role.
        """
        if authorization is not None:
            return await self._bearer(authorization)
        principal = None
        if subject and self._credentials:
            principal = self._credentials.value.find_certificate(subject)
        if principal is None:
            raise Unauthenticated(
                "no credential: send metadata 'authorization: Bearer KEY_OR_TOKEN',"
                " or use a client certificate that the server knows"
            )
        return principal

    async def _bearer(self, authorization: str) -> Principal:
        if len(authorization) > MAX_AUTHORIZATION_BYTES:
            raise Unauthenticated(
                f"authorization: must have at most {MAX_AUTHORIZATION_BYTES} bytes;"
                f" got {len(authorization)}"
            )
        scheme, _, credential = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated("authorization: must be 'Bearer' and an API key or a token")
        if credential.startswith(PREFIX) or self._tokens is None:
            principal = self._credentials.value.keys.find(credential) if self._credentials else None
            if principal is None:
                raise Unauthenticated("authorization: unknown API key")
            return principal
        return await self._tokens.verify(credential)
