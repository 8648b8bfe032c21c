"""The end of a client certificate's validity.

TLS checks it only in a full handshake. A client that resumes a session, as it may for two days, or
keeps its connection open, could go on with an expired certificate. gRPC has no option to turn
session resumption off.
"""

from datetime import UTC, datetime
from functools import lru_cache

from cryptography import x509

from palaver_server.errors import Unauthenticated


def check_not_expired(certificate: bytes) -> None:
    """Check that a client certificate that TLS has verified has not expired since.

    Args:
        certificate: The PEM.

    Raises:
        Unauthenticated: It has expired.
    """
    if datetime.now(UTC) > _end(certificate):
        raise Unauthenticated("the client certificate has expired")


@lru_cache(1024)  # a client sends the same certificate with each call
def _end(certificate: bytes) -> datetime:
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc
