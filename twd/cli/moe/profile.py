"""`twd moe profile`: which experts a model uses, counted here or read from what others wrote."""

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from twd.cli.common.context import CliContext
from twd.cli.common.numbers import SECONDS
from twd.cli.moe.refusals import refused
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.settings.paths import path_of

if TYPE_CHECKING:
    from twd.moe.profile import ExpertProfile

PEER_S: Final = 10.0
_ANSWER_MAX: Final = 16 << 20


@click.command()
@click.option("-m", "--model", default="", help="The model: a name in the settings, or a GGUF file.")
@click.option("--duration", default=60.0, show_default=True, type=SECONDS, help="Seconds to count while it writes.")
@click.option("--from-log", "logs", multiple=True, metavar="FILE", help="A log, a table, an imatrix file or a profile.")
@click.option("--follow-coord", is_flag=True, help="Ask the agent of this machine.")
@click.option("--follow-peer", default="", metavar="HOST:PORT", help="Ask the agent there.")
@click.option(
    "--rpc-port", default=0, type=click.IntRange(0, 65535), help="The port of the process that it is asked of."
)
@click.option("-o", "--output", default="", metavar="FILE", help="Where to keep it; what is there already fades.")
@click.pass_obj
def profile_command(
    ctx: CliContext,
    model: str,
    duration: float,
    logs: tuple[str, ...],
    follow_coord: bool,
    follow_peer: str,
    rpc_port: int,
    output: str,
) -> ExitCode:
    """Count which experts a model uses. No text is kept.

    With --model alone the model is loaded here, and writes for --duration seconds; that is what is counted. Otherwise
    the counts come from files (--from-log, more than once) or from an agent, which reads the logs of its processes for
    lines of LLAMA_LOG_MOE. A profile that is there already is added: after a week its hits count half.
    """
    from twd.moe.profile import merged
    from twd.moe.profile_files import read_profile, write_profile

    with refused():
        path = _model(ctx, model) if model else None
        found = [read_profile(path_of(name)) for name in logs]
        found += _asked(ctx, follow_coord, follow_peer, rpc_port)
        if not found:
            if path is None:
                text = "there is nothing to count: name a model with -m, a file with --from-log, or an agent"
                raise CommandError(ExitCode.USAGE, text)
            found = [_counted(path, duration)]
        found = [_of_model(one, path, logs) for one in found] if path else found
        target = _target(ctx, output, path)
        before = [read_profile(target)] if target.exists() else []
        whole = merged([*before, *found], time.time())
        write_profile(target, whole)
    click.echo(
        f"{target}: {sum(one.choices for one in found):.0f} choices counted, {whole.choices:.0f} with those before"
    )
    return ExitCode.OK


def _model(ctx: CliContext, name: str) -> Path:
    from twd.cli.models.command import file_of

    path = path_of(name)
    return path if path.is_file() else Path(file_of(ctx.settings, ctx.node, name)[1].path)


def _target(ctx: CliContext, output: str, path: Path | None) -> Path:
    if output:
        return path_of(output)
    from twd.moe.profile_files import kept_profile

    return kept_profile(ctx.home.path, path) if path else ctx.home.path / "moe" / "profile.json"


def _of_model(profile: "ExpertProfile", path: Path, logs: tuple[str, ...]) -> "ExpertProfile":
    """The profile with the model's name on it, if it can be one of that model."""
    import msgspec

    from twd.gguf_tools.model_file import file_hash
    from twd.moe.model import read_mixture
    from twd.moe.profile_files import require_profile_of

    model, key = read_mixture(path), file_hash(path)
    source = Path(logs[0]) if logs else Path("the answer")
    require_profile_of(profile, source, model=key, layers=model.layers, experts=model.experts)
    name = model.headers[0].text("general.name", path.stem)
    now = profile.updated_at or time.time()
    return msgspec.structs.replace(profile, model=key, name=name, experts=model.experts, updated_at=now)


def _counted(path: Path, duration: float) -> "ExpertProfile":
    from twd.bench.prompts import PROMPTS
    from twd.moe.census import count_experts
    from twd.moe.model import read_mixture

    read_mixture(path)
    until = time.monotonic() + duration
    texts = [message.content for prompt in PROMPTS for message in prompt.messages]
    counter = count_experts(path, [str(text) for text in texts], lambda: until - time.monotonic())
    return counter.profile(now=time.time())


def _asked(ctx: CliContext, here: bool, peer: str, rpc_port: int) -> "list[ExpertProfile]":
    if not here and not peer:
        return []
    if not rpc_port:
        text = "--rpc-port is needed: the port of the process, as `GET /v1/peer/processes` of its agent lists it"
        raise CommandError(ExitCode.USAGE, text)
    agent = ctx.settings.agent
    address = peer or f"127.0.0.1:{agent.port}"
    return [asyncio.run(_ask(address, rpc_port, agent.token))]


async def _ask(address: str, rpc_port: int, token: str) -> "ExpertProfile":
    import aiohttp

    from twd.moe.profile_files import parse_answer

    url = f"http://{address}/v1/peer/moe/profile?port={rpc_port}"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PEER_S), headers=headers) as session,
            session.get(url, allow_redirects=False) as answer,
        ):
            data = await answer.content.read(_ANSWER_MAX)
            if answer.status != 200:
                text = f"the agent at {address} answers {answer.status}: {data[:300].decode('utf-8', 'replace')}"
                raise CommandError(ExitCode.NOT_FOUND, text)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        text = f"no agent answers at {address} ({error or 'it took too long'}); `twd run agent` starts one"
        raise CommandError(ExitCode.NOTHING_RUNS, text) from None
    return parse_answer(f"the agent at {address}", data)
