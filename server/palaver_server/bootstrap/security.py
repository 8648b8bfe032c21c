"""TLS, authentication and authorization, built from the settings."""

from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from palaver_server.auth.authenticator import Authenticator
from palaver_server.auth.credentials_file import CredentialsFile
from palaver_server.auth.hot_reload import HotReloaded
from palaver_server.auth.sources import file_source, url_source
from palaver_server.config import Settings
from palaver_server.errors import CredentialsUnusable
from palaver_server.interceptors.authentication import Authentication
from palaver_server.interceptors.authorization import Authorization
from palaver_server.interceptors.interceptor import Interceptor
from palaver_server.transport.tls import server_credentials

# Imported at run time only where they are used: their libraries take long to load.
if TYPE_CHECKING:
    from palaver_server.auth.jwks import KeySet
    from palaver_server.auth.jwt_tokens import TokenVerifier
    from palaver_server.auth.tls_identity import ServerIdentity


@dataclass(frozen=True, slots=True)
class Security:
    """TLS, authentication and authorization, as far as the settings configure them.

    Attributes:
        interceptors: Interceptors that check calls, outermost first; empty without any.
        authenticated_peers: The peers of authenticated calls, which grows until those of closed
            connections are removed; None without credentials.
    """

    interceptors: tuple[Interceptor, ...]
    authenticated_peers: set[str] | None
    _identity: "HotReloaded[ServerIdentity] | None"
    _credentials: HotReloaded[CredentialsFile] | None
    _keys: "HotReloaded[KeySet] | None"

    @classmethod
    async def load(cls, settings: Settings) -> "Security":
        """Read the files and URLs that the settings name.

        Raises:
            CredentialsUnusable: A file or URL cannot be read or is invalid.
        """
        identity = await _identity(settings)
        credentials = await _credentials(settings)
        keys = await _key_set(settings)
        interceptors: tuple[Interceptor, ...] = ()
        authentication: Authentication | None = None
        if settings.tls_client_ca:
            from palaver_server.interceptors.client_certificates import (  # noqa: PLC0415
                ClientCertificates,
            )

            interceptors += (ClientCertificates(),)
        if credentials or keys:
            tokens = _tokens(keys, settings) if keys else None
            authentication = Authentication(Authenticator(credentials, tokens))
            interceptors += (authentication, Authorization())
        return cls(
            interceptors,
            authentication.peers if authentication else None,
            identity,
            credentials,
            keys,
        )

    def watch(self) -> Iterator[Coroutine[Any, Any, None]]:
        """Yield the background tasks that reload changed files and URLs."""
        for each in self._reloaded().values():
            yield each.watch()

    def reload_status(self) -> Mapping[str, bool]:
        """Return whether the last reload succeeded, by what is reloaded."""
        return {name: each.is_current for name, each in self._reloaded().items()}

    def ignored_jwt_keys(self) -> int:
        """Return the number of keys in the JWKS that are ignored because they are invalid."""
        return self._keys.latest.ignored if self._keys else 0

    def _reloaded(self) -> dict[str, HotReloaded[Any]]:
        named = {"tls": self._identity, "credentials": self._credentials, "jwt_keys": self._keys}
        return {name: each for name, each in named.items() if each}

    def add_port(self, server: grpc.aio.Server, address: str) -> int:
        """Have a server listen on an address, with TLS if configured, and return the port.

        Raises:
            RuntimeError: The address is in use, or does not belong to this machine.
        """
        if self._identity is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, server_credentials(self._identity))


async def _identity(settings: Settings) -> "HotReloaded[ServerIdentity] | None":
    paths = (settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
    given = [path for path in paths if path]
    if not given:
        return None
    from palaver_server.auth.tls_identity import ServerIdentity  # noqa: PLC0415

    return await HotReloaded.load(file_source("TLS", *given), ServerIdentity)


async def _credentials(settings: Settings) -> HotReloaded[CredentialsFile] | None:
    if settings.credentials is None:
        return None
    return await HotReloaded.load(
        file_source(
            "credentials",
            settings.credentials,
            grace_seconds=settings.credentials_grace_seconds,
        ),
        CredentialsFile.parse,
    )


async def _key_set(settings: Settings) -> "HotReloaded[KeySet] | None":
    if settings.jwt_keys is None:
        return None
    from palaver_server.auth.jwks import KeySet  # noqa: PLC0415

    is_url = "://" in settings.jwt_keys
    grace_seconds = settings.credentials_grace_seconds
    source = (
        url_source("JWT keys", settings.jwt_keys, grace_seconds=grace_seconds)
        if is_url
        else file_source("JWT keys", Path(settings.jwt_keys), grace_seconds=grace_seconds)
    )
    keys = await HotReloaded.load(source, partial(KeySet.parse, with_secrets=not is_url))
    if not keys.value:  # later it means that the issuer has withdrawn all keys
        raise CredentialsUnusable(
            f"{source.name}: must have a usable key for RS256, ES256 or HS256"
        )
    return keys


def _tokens(keys: "HotReloaded[KeySet]", settings: Settings) -> "TokenVerifier":
    from palaver_server.auth.jwt_tokens import TokenRules, TokenVerifier  # noqa: PLC0415

    rules = TokenRules(
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        leeway_seconds=settings.jwt_leeway_seconds,
        role_claim=settings.jwt_role_claim,
        user_id_claim=settings.jwt_user_id_claim,
    )
    return TokenVerifier(keys, rules)
