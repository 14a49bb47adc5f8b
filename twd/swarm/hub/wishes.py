"""What was asked of a hub, kept beside a file on its way: a service that is started again goes on with it."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from twd.pieces.names import WISH, wish_of
from twd.private_file import write_private
from twd.wire.reading import read_as
from twd.wire.swarm import PullWanted


class HubWish(NamedTuple):
    """A SPEC and its revision."""

    spec: str
    revision: str = ""


def write_wish(target: Path, event: PullWanted) -> None:
    """Keep what was asked."""
    write_private(wish_of(target), msgspec.json.encode(HubWish(event.spec, event.revision)))


def read_wishes(folder: Path) -> Iterator[tuple[Path, HubWish]]:
    """Yield the files of a folder that are on their way from hubs."""
    for path in sorted(folder.glob(f"*{WISH}")):
        try:
            wish = read_as(HubWish, path.read_bytes())
        except OSError:
            continue
        if wish is not None and wish.spec:
            yield path.with_name(path.name.removesuffix(WISH)), wish
