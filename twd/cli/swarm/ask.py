"""`twd swarm pull` by the service that runs here: the wish over the bus, then what it tells."""

import asyncio
from typing import TYPE_CHECKING, Final

import click

from twd.cli.common.context import CliContext
from twd.cli.swarm.transfer_bar import TransferView
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode, exit_code_of
from twd.settings.paths import path_of

if TYPE_CHECKING:
    from twd.bus.nats.bus import NatsBus
    from twd.cli.swarm.pull import Asked
    from twd.wire.base import Event
    from twd.wire.swarm import LayerRange, PullAnswered, PullWanted

ASK_S: Final = 120.0
SILENCE_S: Final = 30.0


def pull_by_service(ctx: CliContext, asked: "Asked", as_json: bool) -> ExitCode:
    """Ask the service; it goes on when this command is ended."""
    if not asked.manifest:
        text = "name what to pull with --manifest NAME, or where from with --peer URL"
        raise CommandError(ExitCode.USAGE, text)
    return asyncio.run(_pull(ctx, asked, as_json))


async def _pull(ctx: CliContext, asked: "Asked", as_json: bool) -> ExitCode:
    from twd.wire.base import Event

    heard: asyncio.Queue[Event] = asyncio.Queue(1024)
    async with ctx.bus("admin") as bus:
        await hear_pulls(bus, heard)
        answer = await _ask(bus, ctx, asked)
        if answer.failure is not None:
            raise CommandError(exit_code_of(answer.failure.code), answer.failure.with_advice)
        if answer.done:
            click.echo(f"{answer.path} is here already", err=True)
            return ExitCode.OK
        path = await follow_pulls(heard, answer, asked.layers, as_json)
        if not as_json:
            click.echo(answer.path or path)
        return ExitCode.OK


async def hear_pulls(bus: "NatsBus", heard: "asyncio.Queue[Event]") -> None:
    """Put what services tell of pulls into a queue."""
    from twd.bus.base import BusMessage
    from twd.wire.base import Event
    from twd.wire.codec import decode
    from twd.wire.routes import ROUTE_OF
    from twd.wire.swarm import PullFailed, PullFinished, PullProgressed

    def take(message: BusMessage) -> None:
        event = decode(message.data)
        if isinstance(event, Event) and not heard.full():
            heard.put_nowait(event)

    for kind in (PullProgressed, PullFinished, PullFailed):
        await bus.subscribe(ROUTE_OF[kind].pattern, take)


async def _ask(bus: "NatsBus", ctx: CliContext, asked: "Asked") -> "PullAnswered":
    from twd.swarm.local_key import proof_here
    from twd.wire.swarm import PullWanted

    is_root = len(asked.manifest) == 64 and all(letter in "0123456789abcdef" for letter in asked.manifest)
    root, file = (asked.manifest, "") if is_root else ("", asked.manifest)
    dest = str(path_of(asked.dest).absolute())
    proof = proof_here(ctx.settings.home_dir, root, file, dest)
    wanted = PullWanted(node=ctx.here, root=root, file=file, dest=dest, proof=proof, layers=asked.layers)
    return await ask_service(bus, wanted)


async def ask_service(bus: "NatsBus", wanted: "PullWanted") -> "PullAnswered":
    """Send a wish to the service of a machine; raises CommandError if none answers."""
    from twd.bus.base import BusError
    from twd.kit.messages.reply_decoding import read_answer
    from twd.wire.codec import encode
    from twd.wire.routes import subject_of
    from twd.wire.swarm import PullAnswered

    try:
        answer = read_answer(await bus.request(subject_of(wanted), encode(wanted), timeout_s=ASK_S))
    except BusError as error:
        text = f"no swarm service answers on {wanted.node}: {error}. Name seeders with --peer, or start `twd run swarm`"
        raise CommandError(ExitCode.NOTHING_RUNS, text) from None
    if not isinstance(answer, PullAnswered):
        raise CommandError(ExitCode.FAULT, "the swarm service answered what makes no sense here")
    return answer


async def _next(heard: "asyncio.Queue[Event]", node: str) -> "Event":
    try:
        return await asyncio.wait_for(heard.get(), SILENCE_S)
    except TimeoutError:
        text = f"the swarm service of {node} has said nothing for {SILENCE_S:g} s; see `twd status`, `twd logs`"
        raise CommandError(ExitCode.UNHEALTHY, text) from None


async def follow_pulls(
    heard: "asyncio.Queue[Event]", answer: "PullAnswered", layers: "LayerRange | None", as_json: bool
) -> str:
    """Show how far the files of an answer are, until all are there; returns the path of the first. Raises for one that
    fails."""
    paths: dict[str, str] = {}
    views: dict[str, TransferView] = {}
    roots = {answer.root, *answer.more}
    while roots - paths.keys():
        event = await _next(heard, answer.node)
        root = str(getattr(event, "root", ""))
        if root in roots and [getattr(event, "node", ""), getattr(event, "layers", None)] == [answer.node, layers]:
            _show(event, views.setdefault(root, TransferView(getattr(event, "file", ""), as_json)), paths)
    return paths[answer.root]


def _show(event: "Event", view: TransferView, paths: dict[str, str]) -> None:
    """Show one event; notes the path of a file that is there."""
    from twd.swarm.puller import Progress
    from twd.wire.swarm import PullFailed, PullFinished, PullProgressed

    match event:
        case PullProgressed():
            view.show(Progress(event.done_bytes, event.total_bytes, event.bytes_s, event.sources, event.banned))
        case PullFinished():
            paths[event.root], size = event.path, event.total_bytes
            view.end(Progress(size, size, 0.0, 0, 0), "finished", path=event.path, fetched_bytes=event.fetched_bytes)
        case PullFailed():
            view.end(Progress(0, 0, 0.0, 0, 0), "failed", problem=event.failure.message)
            raise CommandError(exit_code_of(event.failure.code), event.failure.with_advice)
