"""Signatures of manifests by nkeys: whose word counts for what a file must be."""

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
    """What a signature covers: the tree's root binds every byte of the file."""
    told = (manifest.name, str(manifest.total_size), manifest.sha256, manifest.filename)
    return "\n".join(("twd manifest", *told)).encode()


def sign(manifest: Manifest, seed_file: Path) -> Manifest:
    """The manifest with a signature; the file holds the seed of an nkey."""
    try:
        pair = nkeys.from_seed(bytearray(seed_file.read_bytes().strip()))
        signature, signer = pair.sign(_signed(manifest)), pair.public_key.decode()
    except OSError as error:
        raise TwdError(FailureCode.MODEL_NOT_FOUND, f"{seed_file} cannot be read: {error.strerror}") from None
    except (nkeys.NkeysError, ValueError, IndexError, TypeError):
        raise TwdError(FailureCode.BAD_REQUEST, f"{seed_file} holds no nkey seed; `nk -gen user` makes one") from None
    return msgspec.structs.replace(manifest, signer=signer, signature=base64.b64encode(signature).decode())


def check_signer(manifest: Manifest, signers: Collection[str]) -> None:
    """Raise unless one of these signed it; without signers anybody's manifest is taken."""
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
