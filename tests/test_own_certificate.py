"""The certificate of an installation: made once, its owner's alone, and made anew where it cannot be used."""

import ssl
from pathlib import Path

import pytest
from cryptography import x509

from twd.own_certificate import make_identity, read_or_make_certificate


def test_it_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    notes: list[str] = []
    first = read_or_make_certificate(tmp_path, notes)
    assert read_or_make_certificate(tmp_path, notes) == first
    assert first.file.stat().st_mode & 0o777 == 0o600
    assert notes == []


def test_its_fingerprint_is_that_of_the_certificate(tmp_path: Path) -> None:
    own = read_or_make_certificate(tmp_path, [])
    certificate = x509.load_pem_x509_certificate(own.file.read_bytes())
    from cryptography.hazmat.primitives.hashes import SHA256

    assert certificate.fingerprint(SHA256()).hex() == own.fingerprint
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(own.file)


def _strange_files() -> list[bytes]:
    one, other = make_identity("one"), make_identity("other")
    return [b"", b"rubbish", b"\xff\xfe", one.certificate.encode(), one.key, one.key + other.certificate.encode()]


@pytest.mark.parametrize("content", _strange_files(), ids=range(6))
def test_a_file_that_no_server_can_use_is_moved_aside_and_told(tmp_path: Path, content: bytes) -> None:
    notes: list[str] = []
    path = read_or_make_certificate(tmp_path, notes).file
    path.write_bytes(content)
    again = read_or_make_certificate(tmp_path, notes)
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(again.file)
    (aside,) = (one for one in tmp_path.iterdir() if one != path)
    assert aside.read_bytes() == content
    assert aside.name in notes[0]
    assert "join again" in notes[0]
