"""What libtorrent makes of files and torrents; runs in an environment of its own. Prints one JSON object.

torrent_client.py roots FILE...          the root of each file in a v2 torrent that libtorrent makes
torrent_client.py fetch TORRENT FOLDER   the file of a torrent, from its web seeds alone
"""

import json
import sys
import time
from pathlib import Path

import libtorrent as lt  # type: ignore[import-not-found]

PATIENCE_S = 60


def root_of(path: Path) -> str:
    """The root that libtorrent finds for a file."""
    storage = lt.file_storage()
    lt.add_files(storage, str(path))
    made = lt.create_torrent(storage, 1 << 20, lt.create_torrent.v2_only)
    lt.set_piece_hashes(made, str(path.parent))
    (about,) = made.generate()[b"info"][b"file tree"].values()
    return str(about[b""][b"pieces root"].hex())


def fetch(torrent: Path, folder: Path) -> bool:
    """Whether the file comes; no peer, no tracker and no DHT are asked."""
    alone = dict.fromkeys(("enable_dht", "enable_lsd", "enable_upnp", "enable_natpmp"), False)
    session = lt.session({**alone, "listen_interfaces": "127.0.0.1:0", "alert_mask": 0})
    handle = session.add_torrent({"ti": lt.torrent_info(str(torrent)), "save_path": str(folder)})
    until = time.monotonic() + PATIENCE_S
    while not handle.status().is_seeding and time.monotonic() < until:
        time.sleep(0.05)
    return bool(handle.status().is_seeding)


def main(what: str, *arguments: str) -> None:
    """One of both."""
    if what == "roots":
        told: object = {one: root_of(Path(one)) for one in arguments}
    else:
        told = {"version": lt.version, "fetched": fetch(Path(arguments[0]), Path(arguments[1]))}
    print(json.dumps(told))


main(*sys.argv[1:])
