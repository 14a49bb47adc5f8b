"""`twd slice FILE A-B`: some layers of a model as a file of their own; alone, which slices are kept here."""

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from twd.cli.common.context import CliContext
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.kit.wording import count
from twd.process.home import StateFolder
from twd.settings.paths import path_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from twd.engine.rpc.tensor_cache import CachedTensors
    from twd.gguf_tools.slice_cache import CachedSlice
    from twd.gguf_tools.slice_layout import SliceFacts
    from twd.pieces.parts import KeptPart

_RANGE = re.compile(r"(\d{1,5})-(\d{1,5})")


@click.command("slice")
@click.argument("file", required=False, default="")
@click.argument("layers", required=False, default="", metavar="A-B")
@click.option("-o", "--output", default="", metavar="OUT", help="Write here, instead of to the cache.")
@click.option("--head", is_flag=True, help="With the output norm and matrix; A-B may then be empty, as in 30-30.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_obj
def slice_command(ctx: CliContext, file: str, layers: str, output: str, head: bool, as_json: bool) -> ExitCode:
    """Cut layers A up to, but not including, B out of a GGUF model: `twd slice model.gguf 0-15`.

    Without FILE it lists the slices that are kept, the parts of models that came for their layers, the weights that RPC
    workers keep, and what they take.
    """
    if not file:
        return _list(ctx.home, as_json)
    folder = _folder(ctx.home)
    first, end = _range(layers)
    began = time.perf_counter()
    target = path_of(output) if output else None
    path, facts = _cut(path_of(file), first, end, head, target, folder)
    _tell(path, facts, round((time.perf_counter() - began) * 1000), as_json)
    return ExitCode.OK


def _range(layers: str) -> tuple[int, int]:
    match = _RANGE.fullmatch(layers)
    if match is None:
        wrong = f"{layers!r} is no range of layers" if layers else "a FILE and its layers A-B are needed"
        raise CommandError(ExitCode.USAGE, f"{wrong}; write it like `twd slice model.gguf 0-15`")
    return int(match[1]), int(match[2])


def _cut(
    source: Path, first: int, end: int, head: bool, output: Path | None, folder: Path
) -> "tuple[Path, SliceFacts]":
    from twd.gguf_tools.slice import plan_slice, write_slice
    from twd.gguf_tools.slice_cache import cached_slice
    from twd.wire.failures import FailureCode, TwdError

    if not source.exists():
        raise CommandError(ExitCode.NOT_FOUND, f"there is no file {source}")
    try:
        if output is not None:
            written = write_slice(source, first, end, output, head=head)
            return written.path, written.facts
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return cached_slice(source, first, end, head, folder), plan_slice(source, first, end, head=head).facts
    except TwdError as error:
        refused = error.code in (FailureCode.BAD_REQUEST, FailureCode.UNSUPPORTED)
        raise CommandError(ExitCode.USAGE if refused else ExitCode.CANNOT_START, str(error)) from None


def _tell(path: Path, facts: "SliceFacts", ms: int, as_json: bool) -> None:
    import msgspec

    from twd.engine.host_memory.limits import gib
    from twd.process.platform import disk_bytes

    stat = path.stat()
    told = {"path": str(path), "size_bytes": stat.st_size, "disk_bytes": disk_bytes(stat), "ms": ms}
    if as_json:
        click.echo(msgspec.json.encode({**told, **msgspec.to_builtins(facts)}))
        return
    what = f"layers {facts.first} to {facts.end - 1}" if facts.end > facts.first else "no layers"
    head = ", with the output head" if facts.head else ""
    click.echo(f"{path}\n{what} of {facts.layers}{head}: {gib(disk_bytes(stat))} on disk, {ms} ms")


def _list(home: StateFolder, as_json: bool) -> ExitCode:
    """What this machine keeps; those that it plays for a demo keep theirs in homes of their own."""
    import msgspec

    from twd.engine.host_memory.limits import gib
    from twd.kit.terminal import show, table
    from twd.supervisor.simulated_machines import homes_of_played

    places = [_Kept.of(one) for one in (home, *homes_of_played(home))]
    held = sorted((one for place in places for one in place.all), key=lambda one: one.used_at)
    if as_json:
        click.echo(msgspec.json.encode([_told(one) for one in held]))
        return ExitCode.OK
    rows = table("slice", "on disk", "last used")
    for one in reversed(held):
        rows.add_row(one.path.name, gib(one.disk_bytes), time.strftime("%Y-%m-%d %H:%M", time.localtime(one.used_at)))
    if held:
        show(rows)
    for place in places:
        for line in place.lines():
            click.echo(line)
    return ExitCode.OK


def _told(one: "CachedSlice | KeptPart | CachedTensors") -> dict[str, object]:
    return {"path": str(one.path), "disk_bytes": one.disk_bytes, "used_at": one.used_at}


class _Kept(NamedTuple):
    """What one home holds."""

    home: StateFolder
    slices: "list[CachedSlice]"
    parts: "list[KeptPart]"
    workers: "list[CachedTensors]"

    @classmethod
    def of(cls, home: StateFolder) -> "_Kept":
        from twd.engine.rpc.tensor_cache import by_worker
        from twd.gguf_tools.slice_cache import contents
        from twd.pieces.parts import PartFolder

        parts = PartFolder.of(home.cache, "auto").contents()
        return cls(home, contents(_folder(home)), parts, by_worker(home.weights))

    @property
    def all(self) -> "list[CachedSlice | KeptPart | CachedTensors]":
        return [*self.slices, *self.parts, *self.workers]

    def lines(self) -> "Iterator[str]":
        yield f"{count(len(self.slices), 'slice')}, {_sum(self.slices)} in {_folder(self.home)}"
        if self.parts:
            yield f"parts of {count(len(self.parts), 'model')}, {_sum(self.parts)} in {self.parts[0].folder}"
        if self.workers:
            yield f"weights of {count(len(self.workers), 'worker')}, {_sum(self.workers)} in {self.home.weights}"


def _sum(held: "Iterable[CachedSlice | KeptPart | CachedTensors]") -> str:
    from twd.engine.host_memory.limits import gib

    return gib(sum(one.disk_bytes for one in held))


def _folder(home: StateFolder) -> Path:
    return home.slices
