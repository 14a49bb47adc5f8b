"""`twd start`, `twd stop`, `twd swap`: which models the running installation serves."""

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from twd.cli.common.api_address import running_settings
from twd.cli.common.context import CliContext
from twd.cli.common.head_option import head_option, problem_words
from twd.cli.common.numbers import SECONDS
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode, exit_code_of
from twd.settings.paths import path_of
from twd.wire.base import InstanceId, ModelId, NodeId
from twd.wire.life import WANTED_MAX, ChangeAnswered, ChangeStep, ChangeTold, ModelUnwanted, ModelWanted, SwapWanted

if TYPE_CHECKING:
    from twd.bus.base import Bus, BusMessage
    from twd.bus.nats.bus import NatsBus
    from twd.settings.model import ModelConfig, Settings
    from twd.wire.model import ModelLoading

ANSWER_S: Final = 30.0
PATIENCE_S: Final = 1800.0
LOOK_S: Final = 2.0
MISSES_MAX: Final = 4
ENDS: Final = (ChangeStep.DONE, ChangeStep.FAILED)
Wish = ModelWanted | ModelUnwanted | SwapWanted

node_option = click.option("--node", default="", help="The machine that is asked; this one, if none is named.")
timeout_option = click.option(
    "--timeout", default=PATIENCE_S, show_default=True, type=SECONDS, help="Seconds to watch; it goes on even so."
)
reclaim_option = click.option(
    "--ram-reclaim", type=click.Choice(["off", "on", "auto"]), help="Instead of what the settings say."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@click.command()
@click.option("-m", "--model", default="", help="A name in the settings, a GGUF file, or a file that the agent found.")
@head_option
@reclaim_option
@click.option("--skip-version-check", is_flag=True, help="Use machines of the pool whose engine does not match.")
@node_option
@timeout_option
@json_option
@click.pass_obj
def start(
    ctx: CliContext,
    model: str,
    head: str,
    ram_reclaim: str | None,
    skip_version_check: bool,
    node: str,
    timeout: float,
    as_json: bool,
) -> ExitCode:
    """Serve a model; without a name, the default one of the settings. Where nothing runs, `twd up -d` comes first."""
    name = model or running_settings(ctx).default_model
    if not name:
        raise CommandError(ExitCode.CONFIG, "the settings name no model; give one with -m, or write them: twd init")
    if not house_stands(ctx, node) and name not in ctx.settings.backends:
        _check_model(ctx, name)
        _warn_of_head(ctx, name, head)
    start_house(ctx, node, as_json, timeout, ("--skip-version-check",) if skip_version_check else ())
    place = NodeId(node) or ctx.here
    wish = ModelWanted(
        node=place,
        model=local_name(name, node),
        ram_reclaim=ram_reclaim or "",
        skip_version_check=skip_version_check,
        head=head,
    )
    return change(ctx, wish, timeout, as_json)


@click.command()
@click.argument("model", required=False, default="")
@click.option("-m", "--model", "named", default="", help="The same, as `twd start` takes it.")
@node_option
@timeout_option
@json_option
@click.pass_obj
def stop(ctx: CliContext, model: str, named: str, node: str, timeout: float, as_json: bool) -> ExitCode:
    """Serve a model no longer, when its jobs are done; without a name, none of them. `twd down` ends everything.

    MODEL is what `twd start -m` took: a name or a file.
    """
    if model and named:
        raise CommandError(ExitCode.USAGE, f"both {model!r} and -m {named!r}: give one of them")
    model = model or named
    if not ctx.settings.bus.url and ctx.instance() is None:
        click.echo('{"done": true, "note": "nothing runs"}' if as_json else f"nothing runs in {ctx.home.path}")
        return ExitCode.OK
    name = local_name(model, node) if model else ""
    return change(ctx, ModelUnwanted(node=NodeId(node) or ctx.here, model=name), timeout, as_json)


@click.command()
@click.argument("model")
@click.option("--instead-of", default="", help="The model that goes; the default one, if none is named.")
@node_option
@timeout_option
@json_option
@click.pass_obj
def swap(ctx: CliContext, model: str, instead_of: str, node: str, timeout: float, as_json: bool) -> ExitCode:
    """Serve a model in place of another. The new one is loaded first where both fit; a failure changes nothing."""
    old = local_name(instead_of, node) if instead_of else ""
    wish = SwapWanted(node=NodeId(node) or ctx.here, model=local_name(model, node), instead_of=old)
    return change(ctx, wish, timeout, as_json)


def house_stands(ctx: CliContext, node: str) -> bool:
    """Whether an installation runs here, or another one is meant."""
    return bool(node or ctx.settings.bus.url) or ctx.instance() is not None


def start_house(ctx: CliContext, node: str, quiet: bool, timeout_s: float, more: tuple[str, ...] = ()) -> None:
    """See to it that an installation runs here; one that is started now serves no model yet."""
    if house_stands(ctx, node):
        return
    from twd.cli.detach import start_detached
    from twd.supervisor.start_display import SilentView, choose_view

    ctx.home.prepare()
    if not quiet:
        click.echo("nothing runs yet: twd up -d --no-models")
    view = SilentView() if quiet else choose_view(False, False)
    start_detached(ctx, (), False, view, timeout_s, ("--no-models", *more))


def _check_model(ctx: CliContext, name: str) -> None:
    """Refuse here what the supervisor would refuse, before a whole installation is started for it."""
    from twd.engine.host_memory.limits import available_bytes
    from twd.gguf_tools.inspect import inspect
    from twd.moe.advice import advice_for

    path = Path(file_of(ctx.settings, ctx.node, name)[1].path)
    inspect(path)
    for advice in advice_for(path, available_bytes()):
        click.echo(f"{path.name}: {advice.text}; {advice.command}", err=True)


def _warn_of_head(ctx: CliContext, name: str, head: str) -> None:
    """Say why a head will not guess; the model is served all the same."""
    from twd.gguf_tools.inspect import inspect
    from twd.supervisor.model_changes import with_head

    if head:
        info = inspect(Path(file_of(ctx.settings, ctx.node, name)[1].path))
        if words := problem_words(with_head(ctx.settings, head), name, info):
            click.echo(words, err=True)


def file_of(settings: "Settings", node: NodeId, name: str) -> "tuple[str, ModelConfig]":
    """The model behind a name, as far as it can be known without asking anybody; its path is whole."""
    import msgspec

    from twd.agent.detect import MachineDetector
    from twd.supervisor.model_changes import find_model

    found = MachineDetector(settings, node, InstanceId(""), 0).scan.scan()
    known, key = find_model(settings, found, local_name(name, ""))
    if key not in known.models:
        raise CommandError(ExitCode.USAGE, f"{key} is another program's model: there is no file to load")
    path = path_of(known.models[key].path)
    if not path.is_file():
        raise CommandError(ExitCode.NOT_FOUND, f"there is no file {path} on this machine")
    return key, msgspec.structs.replace(known.models[key], path=str(path))


def local_name(name: str, node: str) -> str:
    """A file of this machine by its whole path; what another machine has is not ours to see."""
    whole = name if node else _whole_path(name)
    if not 0 < len(whole) <= WANTED_MAX:
        raise CommandError(
            ExitCode.USAGE, f"the name of a model has 1 to {WANTED_MAX} characters, and not {len(whole)}"
        )
    try:
        whole.encode()
    except UnicodeEncodeError:
        raise CommandError(ExitCode.USAGE, f"{whole!a} is no UTF-8; rename the file") from None
    return whole


def _whole_path(name: str) -> str:
    try:
        path = path_of(name)
        there = path.is_file()
    except OSError as error:  # too long for this system
        raise CommandError(ExitCode.NOT_FOUND, f"{name[:200]!r} cannot be looked for: {error.strerror}") from None
    return str(path.absolute()) if there or name.endswith(".gguf") else name


def change(ctx: CliContext, wish: Wish, timeout_s: float, as_json: bool) -> ExitCode:
    """Ask for a change, follow it to its end, and tell how it went."""
    answer, told = asyncio.run(_change(ctx, wish, timeout_s, as_json))
    if as_json:
        click.echo(json.dumps(_document(answer, told)))
    elif answer.note and not answer.change:
        click.echo(answer.note)
    if told is not None and told.failure is not None:
        if not as_json:
            raise CommandError(exit_code_of(told.failure.code), f"{told.failure.message}; {told.note}")
        return exit_code_of(told.failure.code)
    return ExitCode.OK


def _document(answer: ChangeAnswered, told: ChangeTold | None) -> dict[str, object]:
    if told is None:
        return {"done": True, "model": answer.model, "note": answer.note}
    return {
        "done": told.step is ChangeStep.DONE,
        "model": told.model,
        "note": told.note,
        "models": told.models,
        "default": told.default,
        "problem": told.failure.message if told.failure else "",
    }


async def _change(
    ctx: CliContext, wish: Wish, timeout_s: float, quiet: bool
) -> tuple[ChangeAnswered, ChangeTold | None]:
    async with ctx.bus("admin") as bus:
        follower = ProgressFollower(bus, quiet)
        await follower.listen()
        answer = await ask(bus, wish)
        if answer.failure is not None:
            raise CommandError(exit_code_of(answer.failure.code), answer.failure.message)
        if not answer.change:
            return answer, None
        try:
            async with asyncio.timeout(timeout_s):
                return answer, await follower.follow(answer.change, answer.source)
        except TimeoutError:
            text = f"not done within {timeout_s:g} s: {answer.note}. It goes on; `twd status` tells how far it is"
            raise CommandError(ExitCode.CANNOT_START, text) from None


async def ask(bus: "NatsBus", wish: Wish) -> ChangeAnswered:
    """Send a wish to the supervisor of its machine."""
    from twd.bus.base import NoResponders
    from twd.kit.messages.heard_events import stamp
    from twd.kit.messages.reply_decoding import read_answer
    from twd.wire.codec import encode
    from twd.wire.routes import subject_of

    stamped = stamp(wish, bus.name)
    try:
        data = await bus.request(subject_of(stamped), encode(stamped), timeout_s=ANSWER_S)
    except NoResponders:
        text = f"no supervisor answers on machine {wish.node!r}; `twd up` starts one, `twd status` lists machines"
        raise CommandError(ExitCode.NOTHING_RUNS, text) from None
    answer = read_answer(data)
    if not isinstance(answer, ChangeAnswered):
        raise CommandError(ExitCode.FAULT, f"the supervisor of {wish.node!r} answers with something else: {answer!r}")
    return answer


def _in_words(told: ChangeTold) -> str:
    """A step of a change, with its model's name in front where the note leaves that open."""
    named = told.step in ENDS or told.note.startswith(told.model)
    return told.note if named else f"{told.model}: {told.note}"


class ProgressFollower:
    """Hears how far a change has come, and says so."""

    def __init__(self, bus: "Bus", quiet: bool) -> None:
        self._bus = bus
        self._quiet = quiet
        self._told: list[ChangeTold] = []
        self._news = asyncio.Event()
        self._said = ""
        self._stage = ("", 0)
        self._misses = 0

    async def listen(self) -> None:
        """From now on, nothing is missed."""
        from twd.wire.model import ModelLoading
        from twd.wire.routes import ROUTE_OF

        for event in (ChangeTold, ModelLoading):
            await self._bus.subscribe(ROUTE_OF[event].pattern, self._hear)

    def _hear(self, message: "BusMessage") -> None:
        from twd.kit.messages.heard_events import heard_event
        from twd.wire.model import ModelLoading

        event = heard_event(message)
        if isinstance(event, ChangeTold):
            self._told.append(event)
            self._news.set()
        elif isinstance(event, ModelLoading) and self._loads(event.model):
            self._say_progress(event)

    def _say_progress(self, event: "ModelLoading") -> None:
        """Each stage, and a long one at every quarter."""
        if (event.stage, int(event.progress * 4)) != self._stage:
            self._stage = (event.stage, int(event.progress * 4))
            self._say(f"{event.model}: {event.stage} {event.progress:.0%}")

    def _loads(self, model: ModelId) -> bool:
        last = self._told[-1] if self._told else None
        return last is not None and last.step in (ChangeStep.LOADING, ChangeStep.ROLLING_BACK) and model == last.model

    async def follow(self, change: str, supervisor: InstanceId) -> ChangeTold:
        """The last word on a change; raises where the one who makes it is gone."""
        from twd.kit.tasks import heard

        seen = 0
        while True:
            for told in self._told[seen:]:
                if told.change != change:
                    continue
                if told.step is not ChangeStep.FAILED:
                    self._say(_in_words(told))
                if told.step in ENDS:
                    return told
            seen = len(self._told)
            self._news.clear()
            if not await heard(self._news, LOOK_S):
                await self._look_after(supervisor)

    async def _look_after(self, supervisor: InstanceId) -> None:
        """Whether the supervisor is still there: a broker that begins anew loses leases for a moment."""
        self._misses = 0 if await self._is_there(supervisor) else self._misses + 1
        if self._misses >= MISSES_MAX:
            text = (
                f"{supervisor} is gone, and with it the change; `twd status` tells what runs, `twd logs supervisor` why"
            )
            raise CommandError(ExitCode.NOTHING_RUNS, text)

    async def _is_there(self, instance: InstanceId) -> bool:
        from twd.bus.base import BusError
        from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S

        try:
            return await (await self._bus.leases(LEASE_BUCKET, LEASE_TTL_S)).get(instance) is not None
        except BusError:
            return False

    def _say(self, words: str) -> None:
        if not self._quiet and words != self._said:
            click.echo(words)
        self._said = words
