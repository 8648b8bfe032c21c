"""TLS credentials of the server, renewed without a restart."""

from typing import TYPE_CHECKING

import grpc

from palaver_server.auth.hot_reload import HotReloaded

if TYPE_CHECKING:
    from palaver_server.auth.tls_identity import ServerIdentity


def server_credentials(identity: "HotReloaded[ServerIdentity]") -> grpc.ServerCredentials:
    """Return gRPC's credentials; new connections use the newest identity.

    Open connections keep the identity that they started with.
    """
    in_use = identity.value

    def renewed_configuration() -> grpc.ServerCertificateConfiguration | None:
        nonlocal in_use
        newest = identity.value
        if newest is in_use:
            return None
        in_use = newest
        return _configuration(newest)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(in_use),
        renewed_configuration,  # type: ignore[arg-type]  # None: no change
        require_client_authentication=in_use.client_ca is not None,
    )


def _configuration(identity: "ServerIdentity") -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(identity.key, identity.certificates)], root_certificates=identity.client_ca
    )
