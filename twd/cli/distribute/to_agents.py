"""Sends a model to the machines of the bus: their swarm services pull it, from here and from each other."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from twd.cli.common.context import CliContext
from twd.cli.distribute.over_ssh import Outcome
from twd.cli.swarm.transfer_bar import hashing_bar
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode

if TYPE_CHECKING:
    from twd.bus.base import LeaseEntry
    from twd.bus.nats.bus import NatsBus
    from twd.wire.base import Event, NodeId
    from twd.wire.node import NodeFacts
    from twd.wire.swarm import PullAnswered

ASK_S: Final = 120.0
STARTED_S: Final = 20.0
SILENCE_S: Final = 30.0
LOOK_S: Final = 0.5


async def machines_without(ctx: CliContext, hash_: str) -> "list[NodeFacts]":
    """The machines of the bus that have no file with this quick hash; empty where no bus runs."""
    from twd.supervisor.pool_registry import nodes_of

    try:
        async with ctx.bus("status") as bus:
            nodes = nodes_of(await _entries(bus))
    except CommandError as error:
        if error.exit_code is not ExitCode.NOTHING_RUNS:
            raise
        return []
    return [
        facts
        for facts in nodes
        if not facts.guest and facts.node != ctx.here and all(known.hash != hash_ for known in facts.models)
    ]


async def send_to(ctx: CliContext, file: Path, hash_: str, nodes: "Sequence[NodeFacts]") -> list[Outcome]:
    """Ask each machine to pull the model, and wait until all have it or have failed."""
    from twd.pieces.making import manifests_for
    from twd.pieces.manifest import check_piece_size

    with hashing_bar(file.name) as progress:  # so that no machine waits for it
        piece = check_piece_size(ctx.settings.swarm.piece_size_mib)
        await asyncio.to_thread(manifests_for, file, piece, progress=progress)
    async with ctx.bus("admin") as bus:
        heard = _Heard()
        await heard.follow(bus)
        return list(await asyncio.gather(*(_one(bus, heard, facts, file.name, hash_) for facts in nodes)))


async def _one(bus: "NatsBus", heard: "_Heard", facts: "NodeFacts", name: str, hash_: str) -> Outcome:
    if not facts.accepts:
        return Outcome(facts.node, "swarm", "it lends nothing and takes nothing in; set swarm.accept: true there")
    try:
        await _service_on(bus, facts.node)
        answer = await _ask(bus, facts.node, name, hash_)
    except CommandError as error:
        return Outcome(facts.node, "swarm", str(error))
    if answer.failure is not None:
        return Outcome(facts.node, "swarm", answer.failure.with_advice)
    if answer.done:
        return Outcome(facts.node, f"{answer.path} is there already")
    return await _ended(heard, facts.node, answer)


async def _ended(heard: "_Heard", node: "NodeId", answer: "PullAnswered") -> Outcome:
    """Wait for all files of the model."""
    from twd.wire.swarm import PullFailed, PullFinished

    took_ms = 0
    for root in (answer.root, *answer.more):
        last = await heard.end_of(node, root)
        if isinstance(last, PullFailed):
            return Outcome(node, "swarm", last.failure.with_advice)
        if not isinstance(last, PullFinished):
            return Outcome(node, "swarm", f"it has said nothing for {SILENCE_S:g} s")
        took_ms = max(took_ms, last.ms)
    return Outcome(node, f"swarm, {took_ms / 1000:.0f} s, {answer.path}")


async def _entries(bus: "NatsBus") -> "list[LeaseEntry]":
    from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S

    return await (await bus.leases(LEASE_BUCKET, LEASE_TTL_S)).entries()


async def _service_on(bus: "NatsBus", node: "NodeId") -> None:
    """Have the machine's agent start its swarm service, where none runs."""
    from twd.bus.base import BusError
    from twd.wire.codec import encode
    from twd.wire.names import subject_token
    from twd.wire.node import ProcessKind, ProcessWanted
    from twd.wire.routes import subject_of

    prefix = f"swarm.{subject_token(node)}."
    if any(entry.key.startswith(prefix) for entry in await _entries(bus)):
        return
    wanted = ProcessWanted(node=node, process="swarm", kind=ProcessKind.SWARM)
    try:
        await bus.request(subject_of(wanted), encode(wanted), timeout_s=STARTED_S)
    except BusError as error:
        raise CommandError(ExitCode.CANNOT_START, f"its agent started no swarm service: {error}") from None
    for _ in range(round(STARTED_S / LOOK_S)):
        if any(entry.key.startswith(prefix) for entry in await _entries(bus)):
            return
        await asyncio.sleep(LOOK_S)
    text = f"its swarm service did not come within {STARTED_S:g} s; see `twd logs` there"
    raise CommandError(ExitCode.CANNOT_START, text)


async def _ask(bus: "NatsBus", node: "NodeId", name: str, hash_: str) -> "PullAnswered":
    from twd.bus.base import BusError
    from twd.kit.messages.reply_decoding import read_answer
    from twd.wire.codec import encode
    from twd.wire.routes import subject_of
    from twd.wire.swarm import PullAnswered, PullWanted

    wanted = PullWanted(node=node, hash=hash_, file=name)
    try:
        answer = read_answer(await bus.request(subject_of(wanted), encode(wanted), timeout_s=ASK_S))
    except BusError as error:
        raise CommandError(ExitCode.UNHEALTHY, f"its swarm service does not answer: {error}") from None
    if not isinstance(answer, PullAnswered):
        raise CommandError(ExitCode.FAULT, "its swarm service answered what makes no sense here")
    return answer


class _Heard:
    """What the machines tell of their pulls, for each of them."""

    def __init__(self) -> None:
        self._queues: dict[tuple[str, str], asyncio.Queue[Event]] = {}

    async def follow(self, bus: "NatsBus") -> None:
        """Listen from now on."""
        from twd.bus.base import BusMessage
        from twd.wire.codec import decode
        from twd.wire.routes import ROUTE_OF
        from twd.wire.swarm import PullFailed, PullFinished, PullProgressed

        def take(message: BusMessage) -> None:
            event = decode(message.data)
            if isinstance(event, PullProgressed | PullFinished | PullFailed) and event.layers is None:
                queue = self._queue(event.node, event.root)
                if queue.full():
                    queue.get_nowait()
                queue.put_nowait(event)

        for kind in (PullProgressed, PullFinished, PullFailed):
            await bus.subscribe(ROUTE_OF[kind].pattern, take)

    def _queue(self, node: str, root: str) -> "asyncio.Queue[Event]":
        return self._queues.setdefault((node, root), asyncio.Queue(16))

    async def end_of(self, node: str, root: str) -> "Event | None":
        """Return how a machine's pull ended; None if it fell silent."""
        from twd.wire.swarm import PullProgressed

        while True:
            try:
                event = await asyncio.wait_for(self._queue(node, root).get(), SILENCE_S)
            except TimeoutError:
                return None
            if not isinstance(event, PullProgressed):
                return event
            self._show(node, event)

    @staticmethod
    def _show(node: str, now: "Event") -> None:
        import sys

        from twd.wire.swarm import PullProgressed

        if isinstance(now, PullProgressed) and sys.stderr.isatty():
            share = now.done_bytes / max(1, now.total_bytes)
            click.echo(f"\r\x1b[K{node}: {share:.0%}, {now.bytes_s / 2**20:.0f} MiB/s", nl=False, err=True)
