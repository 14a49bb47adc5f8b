"""Signatures of manifests with nkeys, to accept only files from known signers."""

import base64
import binascii
from collections.abc import Collection
from pathlib import Path

import msgspec
import nkeys
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from twd.pieces.manifest import BadManifest, Manifest
from twd.wire.failures import FailureCode, TwdError


def _signed(manifest: Manifest) -> bytes:
    """Return the signed bytes: the root of the tree covers every byte of the file."""
    told = (manifest.name, str(manifest.total_size), manifest.sha256, manifest.filename)
    return "\n".join(("twd manifest", *told)).encode()


def sign(manifest: Manifest, seed_file: Path) -> Manifest:
    """Return the manifest with a signature; the file contains the seed of an nkey."""
    try:
        pair = nkeys.from_seed(bytearray(seed_file.read_bytes().strip()))
        signature, signer = pair.sign(_signed(manifest)), pair.public_key.decode()
    except OSError as error:
        raise TwdError(FailureCode.MODEL_NOT_FOUND, f"{seed_file} cannot be read: {error.strerror}") from None
    except (nkeys.NkeysError, ValueError, IndexError, TypeError):
        raise TwdError(FailureCode.BAD_REQUEST, f"{seed_file} holds no nkey seed; `nk -gen user` makes one") from None
    return msgspec.structs.replace(manifest, signer=signer, signature=base64.b64encode(signature).decode())


def check_signer(manifest: Manifest, signers: Collection[str]) -> None:
    """Raise TwdError unless one of these signed the manifest; without signers every manifest is accepted."""
    if not signers:
        return
    if manifest.signer not in signers:
        who = manifest.signer or "nobody"
        text = f"the manifest of {manifest.filename} is signed by {who}, which is not among swarm.signers"
        raise TwdError(FailureCode.FORBIDDEN, text)
    try:
        raw = base64.b32decode(manifest.signer)  # a prefix, the key, a checksum
        key = Ed25519PublicKey.from_public_bytes(raw[1:33])
        key.verify(base64.b64decode(manifest.signature, validate=True), _signed(manifest))
    except (InvalidSignature, binascii.Error, ValueError):
        raise BadManifest("its signature does not hold") from None
