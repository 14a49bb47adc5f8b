"""`twd init`: looks round, proposes what to serve, and writes a configuration that starts as it is."""

import asyncio
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import msgspec

from twd.cli.common.context import CliContext
from twd.cli.common.options_as import options_as
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.kit.wording import count
from twd.settings.paths import path_of
from twd.wire.failures import TwdError

if TYPE_CHECKING:
    from twd.cli.init.proposal import FoundMachine, FoundModel, InitProposal
    from twd.settings.model import Settings

KINDS: Final = ("auto", "llamacpp", "ollama", "openai", "vllm", "sglang")
HEAD: Final = "# Written by `twd init`. `twd help settings` explains every setting, `twd up` starts this.\n"
NONE_FOUND: Final = "no model was found. Name a folder with --models, a network with --subnet, or try `twd up --demo`"


@dataclass(frozen=True, slots=True)
class InitOptions:
    """What the command line asks for."""

    local: bool
    subnets: tuple[str, ...]
    ports: tuple[int, ...]
    folders: tuple[Path, ...]
    model_path: Path | None
    local_port: int | None
    max_draft_tokens: int | None
    target_url: str
    target_model: str
    target_backend: str
    draft_url: str
    draft_model: str
    draft_backend: str
    output: Path | None
    force: bool
    yes: bool
    as_json: bool

    @property
    def asks(self) -> bool:
        """Whether a person is there, and wants to be asked."""
        return not (self.yes or self.as_json) and sys.stdin.isatty()


@click.command()
@click.option("--local", is_flag=True, help="Only this machine: its files, and servers on its loopback.")
@click.option("--subnet", "subnets", multiple=True, metavar="CIDR", help="Search this network; more than once.")
@click.option("--port", "ports", multiple=True, type=click.IntRange(1, 65535), help="One more port to look at.")
@click.option("--models", "folders", multiple=True, type=click.Path(path_type=Path), help="A folder with GGUF files.")
@click.option("--model-path", type=click.Path(path_type=Path), help="The GGUF file to serve.")
@click.option("--local-port", type=click.IntRange(1, 65535), help="Port of a server on this machine, to look at too.")
@click.option("--max-draft-tokens", type=click.IntRange(1, 256), help="Most guesses that are checked in one pass.")
@click.option("--target-url", default="", help="The server of the model to serve; nothing is searched then.")
@click.option("--target-model", default="", help="Its name there; the first that is listed, if none is given.")
@click.option("--target-backend", default="auto", type=click.Choice(KINDS), help="What that server is.")
@click.option("--draft-url", default="", help="The server of a model that guesses ahead.")
@click.option("--draft-model", default="", help="Its name there.")
@click.option("--draft-backend", default="auto", type=click.Choice(KINDS), help="What that server is.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to write; ./twd.yaml, or what -c names.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@click.option("-y", "--yes", is_flag=True, help="Ask nothing: take what is proposed.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found and written as JSON; ask nothing.")
@click.pass_obj
@options_as(InitOptions)
def init(ctx: CliContext, asked: InitOptions) -> ExitCode:
    """Find models, servers and machines, and write a configuration for them.

    Without --subnet it asks before it searches a network. Exit code 9: nothing to serve was found.
    """
    path = path_of(asked.output or ctx.config or "twd.yaml")
    _check_output(path, asked.force, asked.asks)
    _check_options(asked)
    proposal, found, peers = _proposal(ctx, asked)
    if proposal.target is None:
        raise CommandError(ExitCode.NOT_FOUND, NONE_FOUND)
    text = _text(ctx, proposal, asked.folders, asked.max_draft_tokens)
    if asked.asks and not click.confirm(f"\n{text}\nWrite this to {path}?", default=True):
        click.echo("nothing was written")
        return ExitCode.OK
    _write(path, text)
    _report(path, proposal, found, peers, asked.as_json)
    return ExitCode.OK


def _check_options(asked: InitOptions) -> None:
    if asked.draft_url and not asked.target_url:
        raise CommandError(ExitCode.USAGE, "--draft-url goes with --target-url: who would check the guesses?")
    if (asked.local and asked.subnets) or (asked.model_path and asked.target_url):
        both = "--local and --subnet" if asked.subnets else "--model-path and --target-url"
        raise CommandError(ExitCode.USAGE, f"{both} exclude each other")


def _proposal(ctx: CliContext, asked: InitOptions) -> "tuple[InitProposal, list[FoundModel], list[FoundMachine]]":
    """What to serve: the servers that are named, or the best that is found; with all models and machines found."""
    from twd.cli.init.proposal import PORTS

    if asked.target_url:
        target = (asked.target_url, asked.target_model, asked.target_backend)
        return _named([target, (asked.draft_url, asked.draft_model, asked.draft_backend)]), [], []
    hosts = _hosts([*(() if asked.local else asked.subnets or _asked_subnets(asked.asks)), "127.0.0.1/32"])
    ports = [*PORTS, *asked.ports, *([asked.local_port] if asked.local_port else [])]
    found, peers = _search(ctx, hosts, ports, _with_model(asked.folders, asked.model_path), quiet=asked.as_json)
    if asked.model_path:
        return _serving(found, asked.model_path), found, peers
    return _choose(found, peers, asked.asks, quiet=asked.as_json), found, peers


def _check_output(path: Path, force: bool, asks: bool) -> None:
    """Never write over a file unasked; look before searching, so that nobody waits for nothing."""
    if path.is_dir():
        raise CommandError(ExitCode.USAGE, f"{path} is a folder; name a file with -o")
    if not path.exists() or force:
        return
    if not asks:
        raise CommandError(ExitCode.USAGE, f"{path} is there already; --force writes over it, -o names another file")
    if not click.confirm(f"{path} is there already. Write over it in the end?", default=False):
        raise CommandError(ExitCode.USAGE, f"{path} is left as it is; -o names another file")


def _asked_subnets(asks: bool) -> tuple[str, ...]:
    """The networks of this machine, if a person agrees to have them searched."""
    if not asks:
        return ()
    from twd.cli.init.networks import own_networks

    networks = own_networks()
    if networks and click.confirm(f"Look for servers on {', '.join(networks)} too?", default=True):
        return tuple(networks)
    return ()


def _settings(ctx: CliContext) -> "Settings":
    """Those that are there already, if they can be used: init is how one gets others."""
    from twd.settings.model import Settings

    try:
        return ctx.settings
    except TwdError as error:
        click.echo(f"note: the settings that are there cannot be used ({str(error).splitlines()[0]})", err=True)
        ctx.settings = Settings(home=str(Path.home() / ".twd"))
        return ctx.settings


def _hosts(subnets: Sequence[str]) -> list[str]:
    from twd.cli.init.proposal import hosts_of

    try:
        return hosts_of(subnets)
    except TwdError as error:
        raise CommandError(ExitCode.USAGE, str(error)) from None


def _search(
    ctx: CliContext, hosts: Sequence[str], ports: Sequence[int], folders: Sequence[Path], quiet: bool
) -> "tuple[list[FoundModel], list[FoundMachine]]":
    from twd.cli.init.scan import USUAL_FOLDERS, find_files, find_peers, scan

    settings = _settings(ctx)
    usual = [path_of(folder) for folder in (*USUAL_FOLDERS, *settings.agent.model_dirs)]
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        raise CommandError(ExitCode.USAGE, f"--models {missing[0]} is no folder")
    files, notes = find_files([*folders, settings.home_dir / "models", Path.cwd(), *usual])
    places = len(hosts) * len(set(ports))

    async def look() -> "tuple[list[FoundModel], list[FoundMachine]]":
        bar = click.progressbar(
            length=places, label=f"looking at {count(len(hosts), 'address', 'addresses')}", file=sys.stderr
        )
        with bar:
            servers = await scan(hosts, list(dict.fromkeys(ports)), (lambda _: None) if quiet else bar.update)
        return servers, await find_peers(ctx)

    servers, peers = asyncio.run(look())
    for note in notes:
        click.echo(f"note: {note}", err=True)
    return [*files, *servers], peers


def _choose(found: "list[FoundModel]", peers: "list[FoundMachine]", asks: bool, quiet: bool) -> "InitProposal":
    from twd.cli.init.proposal import propose, propose_for
    from twd.engine.host_memory.limits import available_bytes

    room = available_bytes()
    proposal = propose(found, peers, room)
    if not quiet:
        _table(found, peers)
    if not asks or proposal.target is None:
        return proposal
    answer = click.prompt(
        "Which one to serve", default=found.index(proposal.target) + 1, type=click.IntRange(1, len(found))
    )
    chosen = found[answer - 1]
    if chosen.problem:
        raise CommandError(ExitCode.USAGE, f"{chosen.name} cannot be used: {chosen.problem}")
    return proposal if chosen == proposal.target else propose_for(chosen, found, room)


def _with_model(folders: Sequence[Path], model_path: Path | None) -> list[Path]:
    """The folders to look in, with that of a model which was named."""
    if model_path is None:
        return list(folders)
    if not path_of(model_path).is_file():
        raise CommandError(ExitCode.NOT_FOUND, f"--model-path {model_path}: there is no such file")
    return [*folders, path_of(model_path).absolute().parent]


def _serving(found: "list[FoundModel]", model_path: Path) -> "InitProposal":
    """The proposal that serves one file; what was found beside it may guess for it."""
    from twd.cli.init.proposal import propose_for
    from twd.engine.host_memory.limits import available_bytes

    file = path_of(model_path).resolve()
    target = next((one for one in found if one.path and Path(one.path).resolve() == file), None)
    if target is None or target.problem:
        why = target.problem if target else "it is no model, or a part of one: name its first part"
        raise CommandError(ExitCode.USAGE, f"--model-path {model_path} cannot be served: {why}")
    return propose_for(target, found, available_bytes())


def _table(found: "list[FoundModel]", peers: "list[FoundMachine]") -> None:
    from twd.engine.host_memory.limits import gib
    from twd.kit.terminal import show, table

    rows = table("", "model", "with", "size", "parameters", "family", "where", "")
    for number, one in enumerate(found, 1):
        size = gib(one.size_bytes) if one.size_bytes else ""
        count = f"{one.parameters / 1e9:.2f} B" if one.parameters else ""
        note = one.problem or ("checks guesses" if one.verifies else "passed through")
        rows.add_row(str(number), one.name, one.program, size, count, one.family, one.where, note)
    if found:
        show(rows)
    for peer in peers:
        click.echo(f"machine {peer.node}: {gib(peer.memory)} of memory and {gib(peer.gpu_bytes)} on devices are free")


def _named(servers: Sequence[tuple[str, str, str]]) -> "InitProposal":
    """The servers that were named, whether or not they answer now."""
    from twd.cli.init.proposal import FoundModel, InitProposal
    from twd.cli.init.scan import models_at

    chosen: list[FoundModel] = []
    servers = [server for server in servers if server[0]]
    for url, *_ in servers:
        _check_address(url)
    for url, name, kind in servers:
        answered = asyncio.run(models_at(url.rstrip("/"), kind, name))
        if not answered:
            click.echo(f"note: nobody answers at {url} now; it is used as soon as it does", err=True)
        chosen.append(answered[0] if answered else FoundModel(name, url=url.rstrip("/"), kind=kind))
    return InitProposal(chosen[0], tuple(chosen[1:]))


def _check_address(url: str) -> None:
    from twd.net.url_guard import parse_base

    try:
        parse_base(url)
    except TwdError as error:
        raise CommandError(ExitCode.USAGE, str(error)) from None


def _text(ctx: CliContext, proposal: "InitProposal", folders: Sequence[Path], max_draft_tokens: int | None) -> str:
    """The configuration, read back as `twd up` would read it."""
    from twd.cli.init.proposal import settings_of
    from twd.settings.show import dump_settings

    dirs = [str(path_of(folder).absolute()) for folder in folders]
    try:
        settings = settings_of(proposal, dirs)
        if max_draft_tokens:
            speculation = msgspec.structs.replace(settings.speculation, max_draft_tokens=max_draft_tokens)
            settings = msgspec.structs.replace(settings, speculation=speculation)
        if (bus := _settings(ctx).bus).url:  # the machines that were found are there
            settings = msgspec.structs.replace(settings, bus=bus)
        text = HEAD + (f"# {proposal.why}\n" if proposal.why else "") + dump_settings(settings)
        return _checked(text, settings)
    except ValueError as error:
        raise CommandError(ExitCode.USAGE, f"what was found makes no configuration: {error}") from error


def _checked(text: str, settings: "Settings") -> str:
    import tempfile

    from twd.settings.load import load_settings

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "twd.yaml"
        file.write_text(text, "utf-8")
        load_settings(str(file), {}, Path(folder), Path(folder))
    return text


def _write(path: Path, text: str) -> None:
    from twd.private_file import write_private

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_private(path, text.encode())
    except OSError as error:
        raise CommandError(
            ExitCode.USAGE, f"{path} cannot be written: {error.strerror}; name another with -o"
        ) from None


def _report(
    path: Path, proposal: "InitProposal", found: "list[FoundModel]", peers: "list[FoundMachine]", as_json: bool
) -> None:
    target = proposal.target
    assert target is not None
    if as_json:
        document = {
            "written": str(path),
            "target": asdict(target),
            "drafters": [asdict(one) for one in proposal.drafters],
            "pooled": proposal.pooled,
            "why": proposal.why,
            "found": [asdict(one) for one in found],
            "machines": [asdict(peer) for peer in peers],
        }
        click.echo(json.dumps(document))
        return
    guess = ", ".join(one.name for one in proposal.drafters)
    click.echo(f"{target.name or target.url} is served" + (f"; {guess} guesses for it" if guess else ""))
    if proposal.why:
        click.echo(proposal.why)
    named = "" if path == Path("twd.yaml") else f"-c {shlex.quote(str(path))} "
    click.echo(f"written to {path}; start it with: twd {named}up")
