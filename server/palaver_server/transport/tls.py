"""TLS on the side of the server."""

from typing import TYPE_CHECKING

import grpc

from palaver_server.auth.hot_reload import HotReloaded

if TYPE_CHECKING:
    from palaver_server.auth.tls_identity import ServerIdentity


def server_credentials(identity: "HotReloaded[ServerIdentity]") -> grpc.ServerCredentials:
    """Makes gRPC's credentials of an identity, and lets new connections have its newest value.

    Connections that are there go on with the one that they began with.
    """
    in_use = identity.value

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal in_use
        newest = identity.value
        if newest is in_use:
            return None
        in_use = newest
        return _configuration(newest)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(in_use),
        renewed,  # type: ignore[arg-type]  # None stands for no change
        require_client_authentication=in_use.client_ca is not None,
    )


def _configuration(identity: "ServerIdentity") -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(identity.key, identity.certificates)], root_certificates=identity.client_ca
    )
