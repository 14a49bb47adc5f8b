"""What is fetched of a model that resembles one that is here, beside what rsync sends for it.

python reuse.py MODEL.gguf [OTHER.gguf...]: of MODEL with another chat template, with another name, and of each OTHER.
Each comes from a machine that tells all hashes, and from a hub, which tells that of the whole alone.
"""

import argparse
import asyncio
import json
import re
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.models.hubs import Hub, Repository, serving_hub
from twd.gguf_tools.constants import GGUFValueType
from twd.gguf_tools.header import GgufHeader, aligned, read_header
from twd.models.environment import HubEnvironment
from twd.models.hub import found_on_hub
from twd.models.spec import parse_spec
from twd.models.stores import ModelStore
from twd.pieces.making import make_manifest
from twd.swarm.door import Door
from twd.swarm.hub.transfer import HubTransfer
from twd.swarm.library import Library
from twd.swarm.peer import Peer, Peers
from twd.swarm.seeder import Seeder
from twd.swarm.shared import Shared
from twd.swarm.transfer import Transfer

TEMPLATE = "tokenizer.chat_template"


def field(key: str, text: str) -> bytes:
    """A string field of a GGUF header."""
    name, value = key.encode(), text.encode()
    return struct.pack("<Q", len(name)) + name + struct.pack("<IQ", GGUFValueType.STRING, len(value)) + value


def header_end(header: GgufHeader) -> int:
    """The end of the list of tensors, before the padding."""
    infos = sum(24 + len(one.name.encode()) + 8 * len(one.shape) for one in header.tensors)
    return max(end for _, end in header.spans.values()) + infos


def changed(source: Path, target: Path, key: str, text: str) -> None:
    """Write a model with another text in one field of its header."""
    header, data = read_header(source), source.read_bytes()
    begin, end = header.spans[key]
    front = data[:begin] + field(key, text) + data[end : header_end(header)]
    alignment = header.number("general.alignment", 32)
    target.write_bytes(front.ljust(aligned(len(front), alignment), b"\0") + data[header.data_offset :])


async def fetched(wanted: Path, here: Path, folder: Path) -> tuple[int, dict[str, int]]:
    """Bytes that a pull of one file fetches where another one is, and where all its bytes are from."""
    manifest, library, peers = make_manifest(wanted), Library(), Peers()
    library.add(Shared.whole(manifest, wanted))
    seeder = Seeder(library)
    port = await seeder.listen("127.0.0.1", 0, Door())
    transfer = Transfer(manifest, folder / "copy.gguf")
    transfer.stores = [ModelStore("here", here)]
    transfer.pull.add(Peer(peers, f"http://127.0.0.1:{port}", manifest.name, manifest.total_size))
    await transfer.run()
    assert (folder / "copy.gguf").read_bytes() == wanted.read_bytes()
    await peers.close()
    await seeder.close()
    library.close()
    return transfer.pull.counts.fetched_bytes, transfer.pull.counts.by_source


async def from_hub(wanted: Path, here: Path, folder: Path) -> tuple[int, dict[str, int]]:
    """The same from a hub."""
    hub = Hub({"org/model": Repository({"m-Q4_K_M.gguf": wanted.read_bytes()})})
    async with serving_hub(hub) as url:
        environment = HubEnvironment(endpoint=url)
        spec = parse_spec("org/model:Q4_K_M", hub_hosts=environment.hosts)
        async with found_on_hub(spec, environment) as found:
            target = folder / "pulled.gguf"
            transfer = HubTransfer(found.client, found.files[0], target, stores=[ModelStore("here", here)])
            await transfer.run()
    assert target.read_bytes() == wanted.read_bytes()
    return hub.sent_bytes, transfer.counts.by_source


def rsynced(wanted: Path, here: Path, folder: Path) -> int:
    """Bytes that rsync sends and receives to make a copy of what is here into the wanted file."""
    copy = folder / "rsync.gguf"
    copy.write_bytes(here.read_bytes())
    command = ["rsync", "--no-whole-file", "--ignore-times", "--stats", str(wanted), str(copy)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sum(int(found.replace(",", "")) for found in re.findall(r"Total bytes (?:sent|received): ([\d,]+)", told))


def main() -> None:
    """Each case in a folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("others", type=Path, nargs="*")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        here = Path(name) / "here"
        here.mkdir()
        old = here / "old.gguf"
        old.write_bytes(given.model.read_bytes())
        cases = {
            "another template": (TEMPLATE, "{{ messages }} " * 99),
            "another name": ("general.name", "uploaded again"),
        }
        files = {}
        for what, (key, text) in cases.items():
            files[what] = Path(name) / f"{key}.gguf"
            changed(given.model, files[what], key, text)
        files |= {one.name: one for one in given.others}
        for what, wanted in files.items():
            with tempfile.TemporaryDirectory() as folder:
                ours, sources = asyncio.run(fetched(wanted, here, Path(folder)))
                sent, hub_sources = asyncio.run(from_hub(wanted, here, Path(folder)))
                theirs = rsynced(wanted, old, Path(folder))
            header = read_header(wanted).data_offset
            told = {"what": what, "size": wanted.stat().st_size, "header": header, "fetched": ours, "rsync": theirs}
            most = theirs + header + (2 << 20)
            shares = {source.split(":")[0]: size for source, size in sources.items()}
            guessed = {"hub_sent": sent, "hub_within": sent <= most, "guessed": hub_sources.get("here", 0)}
            print(json.dumps({**told, "within": ours <= most, "from": shares, **guessed}), flush=True)


main()
