"""Who may use a link: certificates made at start and pinned by the wiring, and a proof of the ring's secret."""

import hashlib
import hmac
import secrets
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from twd.own_certificate import LinkIdentity as LinkIdentity
from twd.own_certificate import make_identity as make_identity
from twd.wire.failures import FailureCode, TwdError
from twd.wire.ring import RingWired

NONCE_BYTES: Final = 32


def server_context(identity: LinkIdentity, peers: Sequence[str]) -> ssl.SSLContext:
    """Return a TLS 1.3 context that accepts only the holders of these certificates."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, identity, peers)
    context.num_tickets = 0
    return context


def client_context(identity: LinkIdentity, peer: str) -> ssl.SSLContext:
    """Return a TLS 1.3 context that connects only to the holder of this certificate."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, identity, [peer])


def _context(protocol: int, identity: LinkIdentity, peers: Sequence[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    with tempfile.TemporaryDirectory(prefix="twd-") as folder:  # ssl reads a key only from a file
        file = Path(folder) / "identity.pem"
        file.touch(0o600)
        file.write_bytes(identity.key + identity.certificate.encode())
        context.load_cert_chain(file)
    try:
        context.load_verify_locations(cadata="".join(peers))
    except (ssl.SSLError, ValueError) as error:
        raise TwdError(FailureCode.BAD_REQUEST, f"a peer's certificate cannot be read: {error}") from None
    return context


def der(certificate: str) -> bytes:
    """Return a PEM certificate in DER, as connections show it."""
    return ssl.PEM_cert_to_DER_cert(certificate) if certificate else b""


@dataclass(frozen=True)
class RingTrust:
    """What the members of one ring know: its name, its secret, and how links are protected."""

    ring: str
    nonce: str = field(repr=False)
    key: str = field(default="", repr=False)
    """The preset key; it is never sent, and only used in proofs."""
    encrypted: bool = True

    @classmethod
    def of(cls, wired: RingWired, key: str = "") -> "RingTrust":
        """Return the trust that a wiring gives to its stage."""
        return cls(wired.ring, wired.nonce, key, wired.encrypted)

    @cached_property
    def _secret(self) -> bytes:
        return hmac.digest(
            self.key.encode(), b"twd ring\0" + self.ring.encode() + b"\0" + self.nonce.encode(), "sha256"
        )

    def proof(self, *parts: str | bytes) -> bytes:
        """Return a proof that the caller knows the secret, valid only for these parts (purpose and nonces)."""
        digest = hashlib.sha256()
        for part in parts:
            data = part.encode() if isinstance(part, str) else part
            digest.update(len(data).to_bytes(4, "little") + data)
        return hmac.digest(self._secret, digest.digest(), "sha256")

    def proves(self, proof: bytes, *parts: str | bytes) -> bool:
        """Whether a peer's proof is valid for these parts."""
        return hmac.compare_digest(proof, self.proof(*parts))


def fresh_nonce() -> bytes:
    """Return new random bytes that were never used before."""
    return secrets.token_bytes(NONCE_BYTES)


def ring_nonce() -> str:
    """Return a new secret that a speculator gives to all members of one ring."""
    return secrets.token_hex(NONCE_BYTES)
