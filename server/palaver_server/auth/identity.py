"""The server's certificate and key, and whose certificates it takes from clients."""

from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """What a server shows to clients, and asks of them; all PEM.

    Attributes:
        certificates: Its certificate, and those between it and the root.
        key: The certificate's private key.
        client_ca: The authorities of which a client must have a certificate; None: it
            needs none.
    """

    certificates: bytes
    key: bytes
    client_ca: bytes | None = None

    def __post_init__(self) -> None:
        """Checks that the parts are whole, and belong together.

        Raises:
            ValueError: They do not, as when only one of two files was renewed yet.
        """
        try:
            certificate = x509.load_pem_x509_certificates(self.certificates)[0]
        except ValueError:
            raise ValueError("the certificate is no whole PEM certificate") from None
        try:
            key = load_pem_private_key(self.key, password=None)
        except (ValueError, TypeError):  # the latter for one with a passphrase
            raise ValueError("the key is no whole PEM key without a passphrase") from None
        if key.public_key() != certificate.public_key():
            raise ValueError("the key is not that of the certificate")
        if self.client_ca is not None:
            try:
                x509.load_pem_x509_certificates(self.client_ca)
            except ValueError:
                raise ValueError("the client CA is no whole PEM certificate") from None
