"""A private BitTorrent v2 torrent of a file whose manifest is known; seeders of twd are its web seeds (BEP 19)."""

from collections.abc import Sequence
from typing import Any

from twd.pieces.manifest import Manifest
from twd.pieces.tree import UNIT


def torrent_of(manifest: Manifest, web_seeds: Sequence[str]) -> bytes:
    """Return the torrent file's bytes."""
    root = bytes.fromhex(manifest.root)
    name = manifest.filename.encode()
    info = {
        b"file tree": {name: {b"": {b"length": manifest.total_size, b"pieces root": root}}},
        b"meta version": 2,
        b"name": name,
        b"piece length": UNIT,
        b"private": 1,
    }
    layers = {root: bytes.fromhex(manifest.layer)} if manifest.total_size > UNIT else {}
    return bencode({b"info": info, b"piece layers": layers, b"url-list": [one.encode() for one in web_seeds]})


def bencode(value: Any) -> bytes:
    """Return numbers, bytes, lists and dictionaries in BitTorrent's encoding."""
    match value:
        case int():
            return b"i%de" % value
        case bytes():
            return b"%d:%b" % (len(value), value)
        case list():
            return b"l%be" % b"".join(map(bencode, value))
        case dict():
            return b"d%be" % b"".join(bencode(key) + bencode(value[key]) for key in sorted(value))
        case _:
            raise TypeError(type(value).__name__)
