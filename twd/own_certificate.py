"""Certificates that sign themselves: whoever trusts one knows it by the certificate itself or by its fingerprint."""

import datetime
import hashlib
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from twd.private_file import create_private, set_aside_if_unfit

ALWAYS: Final = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC), datetime.datetime(2099, 1, 1, tzinfo=datetime.UTC)
"""Trust is by the certificate itself, so a machine whose clock is wrong is no stranger."""
FILE_NAME: Final = "own_certificate.pem"


@dataclass(frozen=True)
class LinkIdentity:
    """A certificate and its key, both in PEM."""

    certificate: str
    key: bytes = field(repr=False)


@dataclass(frozen=True)
class OwnCertificate:
    """The certificate of one installation; its file holds the key, too."""

    file: Path
    fingerprint: str


def make_identity(name: str) -> LinkIdentity:
    """A fresh key and a certificate that it signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64] or "twd")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(ALWAYS[0])
        .not_valid_after(ALWAYS[1])
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    return LinkIdentity(certificate.public_bytes(serialization.Encoding.PEM).decode(), private)


def read_or_make_certificate(home: Path, notes: list[str]) -> OwnCertificate:
    """The certificate of the installation in `home`; a file that is none is moved aside and reported."""
    path = home / FILE_NAME
    set_aside_if_unfit(path, _is_certificate, "a new certificate was made: machines must join again", notes)
    if not path.exists():
        identity = make_identity("twd")
        create_private(path, identity.key + identity.certificate.encode())
    return OwnCertificate(path, fingerprint_of(_der(path.read_text())))


def fingerprint_of(der: bytes) -> str:
    """The SHA-256 of a certificate, in hex."""
    return hashlib.sha256(der).hexdigest()


def _is_certificate(text: str) -> bool:
    """Whether a server can use it: a certificate and the key that belongs to it."""
    try:
        key = serialization.load_pem_private_key(text.encode(), None)
        return x509.load_der_x509_certificate(_der(text)).public_key() == key.public_key()
    except (ValueError, TypeError):
        return False


def _der(text: str) -> bytes:
    _, begin, rest = text.partition("-----BEGIN CERTIFICATE-----")
    return ssl.PEM_cert_to_DER_cert(begin + rest.strip())
