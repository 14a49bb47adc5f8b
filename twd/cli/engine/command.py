"""`twd engine`: which build of llama.cpp is here, and another one in its place."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any, Final

import click

from twd.cli.common.context import CliContext
from twd.cli.doctor.programs import EngineBuild
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.setup.engine import recipe
from twd.setup.engine.builder import EngineBuilder, recorded_backend

ORDER: Final = tuple(recipe.BACKENDS)


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_context
def engine(click_context: click.Context, as_json: bool) -> ExitCode | None:
    """Which build of llama.cpp computes here, and whether a better one could."""
    if click_context.invoked_subcommand:
        return None
    from twd.cli.doctor import probes

    build = probes.llama_build()
    facts = _facts(build, probes.wanted_llama())
    if as_json:
        click.echo(json.dumps(facts))
    else:
        click.echo("\n".join(_lines(facts)))
    return ExitCode.UNHEALTHY if build.problem else ExitCode.OK


def _facts(build: EngineBuild, wanted: str) -> dict[str, Any]:
    backend = recorded_backend(Path(sys.prefix))
    return {
        "version": build.version,
        "wanted": wanted,
        "backend": backend or "unknown",
        "devices": list(build.devices),
        "card_used": build.accelerated,
        "rpc": build.rpc,
        "kernels": build.kernels,
        "problem": build.problem,
        "advice": advice(build, wanted),
    }


def advice(build: EngineBuild, wanted: str) -> list[str]:
    """Return what would be better, each with its command."""
    found = []
    if build.problem or (wanted and build.version != wanted):
        found.append("twd engine install  # the engine that this twd wants")
    for tool, backend in recipe.CARDS.items():
        if shutil.which(tool) and not build.accelerated and not build.problem:
            found.append(f"twd engine install --backend {backend}  # {tool} is here, and the engine uses no card")
    if not found and not (build.rpc and build.kernels):
        lacks = " and ".join(["RPC"] * (not build.rpc) + ["our kernels"] * (not build.kernels))
        found.append(f"twd engine install  # this build lacks {lacks}")
    return found


def _lines(facts: dict[str, Any]) -> list[str]:
    if facts["problem"]:
        return [f"the engine does not work: {facts['problem']}", *(f"  $ {one}" for one in facts["advice"])]
    lines = [f"llama-cpp-python {facts['version']}, built for: {facts['backend']}"]
    lines.append(f"computes on: {', '.join(facts['devices']) or 'the processor'}")
    lines.append(f"our kernels: {_yes(facts['kernels'])}; RPC: {_yes(facts['rpc'])}")
    return [*lines, *(f"  $ {one}" for one in facts["advice"])]


def _yes(there: bool) -> str:
    return "yes" if there else "no"


@engine.command()
@click.option("--backend", type=click.Choice(ORDER), default="native", show_default=True, help="What shall compute.")
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    help="A folder with packages: a built engine, or its source and what builds it. No network is used then.",
)
@click.pass_obj
def install(ctx: CliContext, backend: str, source: Path | None) -> ExitCode:
    """Build llama.cpp for this machine, with our kernels and RPC, and put it in place of the one that is here.

    It is asked first whether it works; if not, the old one is back. Compiling takes minutes.
    """
    from twd.cli.doctor.probes import wanted_llama

    if ctx.instance() is not None:
        raise CommandError(ExitCode.ALREADY_RUNNING, f"twd runs in {ctx.home.path} with this engine; `twd down` first")
    if source is not None and not source.is_dir():
        raise CommandError(ExitCode.NOT_FOUND, f"{source} is no folder")
    version = wanted_llama()
    built = bool(source and list(source.glob(f"llama_cpp_python-{version}-*.whl")))
    problem = "" if built else recipe.obstacle(backend, recipe.processor_features())
    if problem:
        raise CommandError(ExitCode.CANNOT_START, problem)
    click.echo(f"{'taking' if built else 'building'} llama-cpp-python {version} for {recipe.BACKENDS[backend].about}")
    found = EngineBuilder(version).install(backend, source)
    click.echo(f"it works: RPC {_yes(found['rpc'])}, our kernels {_yes(found['kernels'])}, cards {found['cards']}")
    if found.get("note"):
        click.echo(found["note"], err=True)
    return ExitCode.OK
