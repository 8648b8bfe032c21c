"""The server's TLS certificate and key, and the authorities of client certificates."""

from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """The TLS identity of a server; all parts are PEM.

    Attributes:
        certificates: The server's certificate, followed by intermediate ones.
        key: The private key of the certificate.
        client_ca: The authorities that must have signed a client's certificate; None if
            clients need no certificate.
    """

    certificates: bytes
    key: bytes
    client_ca: bytes | None = None

    def __post_init__(self) -> None:
        """Check that the parts are complete and belong together.

        Raises:
            ValueError: They are not, for example because only one of two files was renewed
                so far.
        """
        try:
            certificate = x509.load_pem_x509_certificates(self.certificates)[0]
        except ValueError:
            raise ValueError("the certificate must be a complete PEM certificate") from None
        try:
            key = load_pem_private_key(self.key, password=None)
        except (ValueError, TypeError):  # TypeError: the key has a passphrase
            raise ValueError("the key must be a complete PEM key without a passphrase") from None
        if key.public_key() != certificate.public_key():
            raise ValueError("the key does not belong to the certificate")
        if self.client_ca is not None:
            try:
                x509.load_pem_x509_certificates(self.client_ca)
            except ValueError:
                raise ValueError("the client CA must be a complete PEM certificate") from None
