"""Sources that send wrong bytes, on purpose, among honest ones.

python faults.py [--flips 10000]
"""

import argparse
import asyncio
import json
import random
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from peers import MIB, model

from twd.pieces.source import News
from twd.swarm.puller import Hooks
from twd.swarm.transfer import Transfer


class Memory:
    """A source in memory; `wrong` units have one byte flipped."""

    defines, most, least = False, 4, 1

    def __init__(self, name: str, data: bytes, wrong: frozenset[int] = frozenset()) -> None:
        self.name, self._data, self._wrong = name, data, wrong
        self.flipped = 0

    async def news(self) -> AsyncIterator[News]:
        """It has all."""
        yield News(have=list(range(len(self._data) // MIB)))

    async def read(self, begin: int, length: int) -> AsyncIterator[bytes]:
        """Its bytes."""
        for at in range(begin, begin + length, MIB):
            part = bytearray(self._data[at : at + MIB])
            if at // MIB in self._wrong:
                self.flipped += 1
                part[random.randrange(len(part))] ^= 1 << random.randrange(8)
            await asyncio.sleep(0)
            yield bytes(part)

    async def close(self) -> None:
        """Nothing to close."""


async def flips(folder: Path, wanted: int) -> dict[str, object]:
    """Pulls from liars among honest sources, until so many bytes were flipped."""
    path, manifest = model(folder, 64)
    data, flipped, banned_honest, refetched, pulls = path.read_bytes(), 0, 0, 0, 0
    while flipped < wanted:
        liars = [Memory(f"liar {number}", data, frozenset(range(64))) for number in range(40)]
        honest = [Memory(f"honest {number}", data) for number in range(3)]
        banned: list[str] = []
        target = folder / "copy"
        hooks = Hooks(banned=lambda name, reason, unit, told=banned: told.append(name))  # type: ignore[misc]
        transfer = Transfer(manifest, target, hooks=hooks)
        for source in [*liars, *honest]:
            transfer.pull.add(source)
        await transfer.run()
        assert target.read_bytes() == data
        target.unlink()
        flipped += sum(liar.flipped for liar in liars)
        banned_honest += sum(name.startswith("honest") for name in banned)
        refetched += transfer.pull.counts.wasted_bytes
        pulls += 1
    per = round(refetched / MIB / flipped, 2)
    return {
        "flipped_bytes": flipped,
        "pulls": pulls,
        "wrong_in_result": 0,
        "honest_banned": banned_honest,
        "mib_again_for_each": per,
    }


def main() -> None:
    """Until enough bytes were flipped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=10_000)
    parser.add_argument("--folder", default=None)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as made:
        print(json.dumps(asyncio.run(flips(Path(made), given.flips))), flush=True)


if __name__ == "__main__":
    main()
