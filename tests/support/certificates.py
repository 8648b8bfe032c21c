"""Certificate authorities and the certificates they issue, created by the tests."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

_HERE = x509.SubjectAlternativeName(
    [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
)


class Identity(NamedTuple):
    """A certificate and its key, both PEM."""

    certificate: bytes
    key: bytes

    @property
    def serial_number(self) -> int:
        """The serial number, which differs between certificates of the same name."""
        return x509.load_pem_x509_certificate(self.certificate).serial_number

    def write(self, certificate: Path, key: Path) -> None:
        """Write both to files."""
        certificate.write_bytes(self.certificate)
        key.write_bytes(self.key)


class Authority:
    """A certificate authority; its certificates are valid for a day."""

    def __init__(self, name: str = "authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(("CN", name))
        builder = _builder(self._name, self._name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        certificate = builder.sign(self._key, hashes.SHA256())
        self.certificate = certificate.public_bytes(Encoding.PEM)

    def issue(
        self, *subject: tuple[str, str], valid_for: timedelta = timedelta(days=1)
    ) -> Identity:
        """Issue a certificate for this machine; the parts of the subject look like ("CN", "x")."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(*(subject or (("CN", "localhost"),)))
        builder = _builder(name, self._name, key.public_key(), valid_for)
        builder = builder.add_extension(_HERE, critical=False)
        return Identity(
            builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM),
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )


_PARTS = {
    "C": NameOID.COUNTRY_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "CN": NameOID.COMMON_NAME,
}


def _name(*parts: tuple[str, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(_PARTS[part], value) for part, value in parts])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    valid_for: timedelta = timedelta(days=1),
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + valid_for)
    )
