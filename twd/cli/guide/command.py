"""`twd guide`: looks at this machine, and ends in the commands to type."""

import asyncio
import json
import shutil
from pathlib import Path

import click
import msgspec

from twd.cli.common.api_address import running_settings
from twd.cli.common.context import CliContext
from twd.cli.guide.core import GuideCard, GuideFacts, GuideModel, guide, lines
from twd.kit.exit_codes import ExitCode
from twd.process.home import RunningInstance
from twd.settings.model import Settings
from twd.setup.engine import recipe
from twd.setup.units.journal import unit_of
from twd.setup.units.system import LocalSystem
from twd.wire.base import InstanceId
from twd.wire.node import NodeFacts


@click.command("guide")
@click.option("--models", "folders", multiple=True, type=click.Path(path_type=Path), help="A folder with GGUF files.")
@click.option("--json", "as_json", is_flag=True, help="Print facts, answers and commands as JSON, for programs.")
@click.pass_obj
def guide_command(ctx: CliContext, folders: tuple[Path, ...], as_json: bool) -> ExitCode:
    """Walk from this machine to an endpoint that answers: questions, answers, and the commands to type."""
    facts = gather(ctx, folders)
    found = guide(facts)
    click.echo(json.dumps(found.document(facts)) if as_json else "\n".join(lines(found)))
    return ExitCode.OK


def gather(ctx: CliContext, folders: tuple[Path, ...]) -> GuideFacts:
    """Find out what the tree asks for."""
    from twd.agent.detect import MachineDetector
    from twd.cli.doctor import probes

    instance = ctx.instance()
    settings = running_settings(ctx) if instance else ctx.settings
    dirs = (*settings.agent.model_dirs, *map(str, folders))
    looked = msgspec.structs.replace(settings, agent=msgspec.structs.replace(settings.agent, model_dirs=dirs))
    node = asyncio.run(MachineDetector(looked, ctx.node, InstanceId(""), 0).look(0.0))
    build = probes.llama_build()
    others = asyncio.run(_others(ctx, settings, instance))
    return GuideFacts(
        memory_free=node.memory.available,
        cores=node.cpu.cores,
        avx2="avx2" in {name.lower() for name in node.cpu.features} | recipe.processor_features(),
        cards=_cards(node, build.accelerated),
        engine_problem=build.problem,
        models=tuple(
            GuideModel(file.name, file.size_bytes, file.architecture) for file in node.models if not file.problem
        ),
        folders=tuple(str(folder.absolute()) for folder in folders),
        configured=bool(settings.served()),
        running=instance is not None,
        served=tuple(settings.served()) if instance is not None else (),
        machines=others,
        service=unit_of(LocalSystem(), str(ctx.home.path)) is not None,
        api=_api(settings, instance),
    )


def _cards(node: NodeFacts, used: bool) -> tuple[GuideCard, ...]:
    if node.gpus:
        return tuple(GuideCard(gpu.name, gpu.backend, gpu.total, used) for gpu in node.gpus)
    tools = [(tool, backend) for tool, backend in recipe.CARDS.items() if shutil.which(tool)]
    return tuple(GuideCard(f"a card of {tool}", backend, 0, False) for tool, backend in tools) if not used else ()


async def _others(ctx: CliContext, settings: Settings, instance: RunningInstance | None) -> int:
    """How many other machines are on the bus that this one is on."""
    if instance is None and not settings.bus.url:
        return 0
    from twd.cli.doctor import probes

    bus = await probes.look_at_bus(ctx.with_bus(), ctx.node)
    return len({facts.machine for facts in bus.nodes if facts.node != ctx.here})


def _api(settings: Settings, instance: RunningInstance | None) -> str:
    told = instance.addresses.get("api") if instance else ""
    return told or f"{'https' if settings.edge.tls.cert else 'http'}://127.0.0.1:{settings.edge.port}"
