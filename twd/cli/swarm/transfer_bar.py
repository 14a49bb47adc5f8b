"""How far a long reading or a transfer is: a bar in a terminal, lines of JSON for programs."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import click
import msgspec

from twd.kit.progress import Share, unheard
from twd.kit.wording import count

if TYPE_CHECKING:
    from twd.swarm.puller import Progress

JSON_S: Final = 0.5
MIB: Final = 1 << 20
SHARES_MAX: Final = 5


@contextmanager
def hashing_bar(name: str) -> Iterator[Share]:
    """A bar on stderr while a file is read; nothing where nobody would see it."""
    if not sys.stderr.isatty():
        yield unheard
        return
    with click.progressbar(length=1000, label=f"reading {name}", file=sys.stderr) as bar:
        yield lambda share: bar.update(max(0, round(share * 1000) - bar.pos))


class TransferView:
    """Shows a pull: one line that changes on a terminal, JSON on a pipe."""

    def __init__(self, name: str, as_json: bool) -> None:
        self._name, self._json = name, as_json
        self._told = 0.0

    def show(self, progress: "Progress") -> None:
        """As it is now."""
        if self._json:
            if time.monotonic() - self._told >= JSON_S:
                self._told = time.monotonic()
                self._write("pulling", progress)
        elif sys.stderr.isatty():
            click.echo(f"\r\x1b[K{line(self._name, progress)}", nl=False, err=True)

    def end(self, progress: "Progress", state: str, **more: object) -> None:
        """The last word."""
        if self._json:
            self._write(state, progress, **more)
        elif sys.stderr.isatty():
            click.echo("\r\x1b[K", nl=False, err=True)

    def sources(self, by_source: Mapping[str, int]) -> None:
        """Tell people where the bytes are from; programs read it in the last line."""
        if not self._json and by_source:
            click.echo(f"{self._name}: {shares(by_source)}", err=True)

    def _write(self, state: str, progress: "Progress", **more: object) -> None:
        eta = progress.eta_s
        told = {
            "state": state,
            "file": self._name,
            "done_bytes": progress.done_bytes,
            "total_bytes": progress.total_bytes,
            "bytes_s": round(progress.bytes_s),
            "eta_s": round(eta, 1) if eta != float("inf") else None,
            "sources": progress.sources,
            "banned": progress.banned,
        }
        click.echo(msgspec.json.encode({**told, **more}).decode())


def shares(by_source: Mapping[str, int]) -> str:
    """Which part of the bytes came from where, the largest first."""
    total = max(1, sum(by_source.values()))
    named = sorted(by_source.items(), key=lambda pair: -pair[1])
    told = [f"{length / total:.0%} from {source}" for source, length in named[:SHARES_MAX]]
    return ", ".join([*told, *([f"the rest from {len(named) - SHARES_MAX} more"] if len(named) > SHARES_MAX else [])])


def line(name: str, progress: "Progress") -> str:
    """One line for people."""
    share = progress.done_bytes / max(1, progress.total_bytes)
    bar = "#" * round(share * 24)
    eta = progress.eta_s
    left = f"{int(eta) // 60}:{int(eta) % 60:02}" if eta != float("inf") else "-:--"
    banned = f", {progress.banned} banned" if progress.banned else ""
    figures = (
        f"{share:4.0%} of {progress.total_bytes / MIB:,.0f} MiB, {progress.bytes_s / MIB:,.1f} MiB/s, {left} to go"
    )
    return f"{name[:40]} [{bar:24}] {figures}, {count(progress.sources, 'source')}{banned}"
