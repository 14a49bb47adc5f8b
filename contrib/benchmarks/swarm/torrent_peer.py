"""One peer of a BitTorrent v2 swarm: torrent_peer.py FILE FOLDER OWN_ADDRESS PEER...; it says `finished`, and stays."""

import sys
import time
from pathlib import Path

import libtorrent as lt  # type: ignore[import-not-found]

file, folder, own, peers = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:]
torrent = file.with_name(file.name + ".torrent")
if not torrent.exists():
    storage = lt.file_storage()
    lt.add_files(storage, str(file))
    made = lt.create_torrent(storage, 1 << 20, lt.create_torrent.v2_only)
    lt.set_piece_hashes(made, str(file.parent))
    torrent.write_bytes(lt.bencode(made.generate()))
session = lt.session(
    {
        "listen_interfaces": f"{own}:6881",
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "allow_multiple_connections_per_ip": True,
        "alert_mask": 0,
        "enable_incoming_utp": False,
        "enable_outgoing_utp": False,
    }
)
handle = session.add_torrent({"ti": lt.torrent_info(str(torrent)), "save_path": folder})
for peer in peers:
    if peer != own:
        handle.connect_peer((peer, 6881))
told = False
while True:
    if not told and handle.status().is_seeding:
        told = True
        print("finished", flush=True)
    time.sleep(0.02)
