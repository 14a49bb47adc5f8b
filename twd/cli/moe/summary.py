"""`twd moe summary FILE|PROFILE`: what a mixture weighs, or which experts a profile counted."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from twd.cli.common.context import CliContext
from twd.cli.moe.refusals import refused
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.kit.wording import count
from twd.settings.paths import path_of

if TYPE_CHECKING:
    from twd.moe.profile import ExpertProfile
    from twd.moe.summary import MixtureSummary

SHARES: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
"""Of all experts: so many of them are in memory."""


@click.command()
@click.argument("file", metavar="FILE|PROFILE")
@click.option("--top", default=20, show_default=True, type=click.IntRange(min=0), help="Experts of a profile to list.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_obj
def summary(ctx: CliContext, file: str, top: int, as_json: bool) -> ExitCode:
    """Of a GGUF file, or a model in the settings: layout, experts, bytes by layer, what a token reads, least memory.

    Of a profile (`twd moe profile`, a log, a table of layer,expert,count or an imatrix file): the busiest experts,
    skew, overlap of neighbours, and the share of choices that each amount of memory would hold.
    """
    with refused():
        path = model_path(ctx, file)
        if is_model(path):
            _tell_model(path, as_json)
        else:
            _tell_profile(path, top, as_json)
    return ExitCode.OK


def model_path(ctx: CliContext, name: str) -> Path:
    """A file, or that of a model in the settings."""
    path = path_of(name)
    if not path.exists() and name in ctx.settings.models:
        return path_of(ctx.settings.models[name].path)
    from twd.gguf_tools.model_file import why_no_file

    if why := why_no_file(path):
        raise CommandError(ExitCode.USAGE, f"{path} {why}")
    return path


def is_model(path: Path) -> bool:
    """Whether it is a model; an imatrix file is a GGUF, too. Whatever is not there is looked for as a model."""
    if path.suffix == ".gguf" and not path.exists():
        return True
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                return path.suffix == ".gguf"
    except OSError:
        return False
    from twd.gguf_tools.header import read_header

    return read_header(path).text("general.type", "model") == "model"


def _tell_model(path: Path, as_json: bool) -> None:
    from twd.moe.model import read_mixture
    from twd.moe.summary import summarize

    facts = summarize(read_mixture(path))
    if as_json:
        click.echo(msgspec.json.encode(_model_document(path, facts)))
    else:
        _show_model(facts)


def _model_document(path: Path, facts: "MixtureSummary") -> dict[str, Any]:
    names = (
        *("name", "architecture", "layout", "gate_up", "biases", "shared_experts", "experts", "used", "size_bytes"),
        *("dense", "shared", "expert", "outside", "token_reads", "chosen", "least_memory"),
    )
    sizes = {"dense", "shared", "expert", "outside", "token_reads", "chosen", "least_memory"}
    told = {f"{name}_bytes" if name in sizes else name: getattr(facts, name) for name in names}
    layers = [
        {"layer": one.layer, "dense_bytes": one.dense, "shared_bytes": one.shared, "expert_bytes": one.expert}
        for one in facts.layers
    ]
    return {"path": str(path), **told, "layers": layers}


def _show_layers(facts: "MixtureSummary") -> None:
    from twd.engine.host_memory.limits import gib
    from twd.kit.terminal import show, table
    from twd.moe.summary import ranges

    rows = table("layers", "dense", "shared", "experts", "one expert")
    for first, last, layer in ranges(facts.layers):
        span = str(first) if first == last else f"{first}-{last}"
        rows.add_row(span, *(gib(n) for n in (layer.dense, layer.shared, layer.expert, layer.expert // facts.experts)))
    rows.add_row("outside", gib(facts.outside), "", "", "")
    rows.add_row("all", gib(facts.dense), gib(facts.shared), gib(facts.expert), "")
    show(rows)


def _show_model(facts: "MixtureSummary") -> None:
    from twd.engine.host_memory.limits import gib

    more = [
        *(["gate and up in one matrix"] if facts.gate_up else []),
        *(["biases"] if facts.biases else []),
        *(["shared experts"] if facts.shared_experts else []),
    ]
    layout = ", ".join([f"{facts.layout} experts", *more])
    click.echo(f"{facts.name}: {facts.architecture}, {facts.experts} experts, {facts.used} used; {layout}")
    _show_layers(facts)
    click.echo(f"a token reads {gib(facts.token_reads)}, of it {gib(facts.chosen)} of experts")
    click.echo(
        f"least memory {gib(facts.least_memory)}: all but the experts, and one layer's choice; caches come on top"
    )
    if facts.layout != "fused":
        click.echo("llama.cpp does not load single experts: `twd moe fuse IN OUT` writes a file that it loads")


def _tell_profile(path: Path, top: int, as_json: bool) -> None:
    from twd.moe.profile_files import read_profile

    profile = read_profile(path)
    if as_json:
        click.echo(msgspec.json.encode(_profile_document(path, profile, top)))
    else:
        _show_profile(path, profile, top)


def _seen(profile: "ExpertProfile") -> int:
    """Experts of a layer: as told, else up to the highest number that was seen."""
    return profile.experts or 1 + max((max(counts, default=0) for counts in profile.hits.values()), default=0)


def _profile_document(path: Path, profile: "ExpertProfile", top: int) -> dict[str, Any]:
    from twd.moe.profile import overlap, skew

    experts, total = _seen(profile), profile.choices
    hottest = list(profile.by_expert().items())[:top]
    return {
        "path": str(path),
        "name": profile.name,
        "model": profile.model,
        "tokens": profile.tokens,
        "choices": total,
        "experts": experts,
        "layers": len(profile.hits),
        "top": [{"layer": key[0], "expert": key[1], "hits": n, "share": n / total} for key, n in hottest],
        "skew": {str(layer): skew(counts, experts) for layer, counts in sorted(profile.hits.items())},
        "mean_skew": sum(skew(counts, experts) for counts in profile.hits.values()) / max(len(profile.hits), 1),
        "overlap": overlap(profile),
        "held": _held(profile),
    }


def _held(profile: "ExpertProfile") -> list[dict[str, Any]]:
    from twd.moe.profile import pinned_share, recent_share

    slots = _seen(profile) * len(profile.hits)
    return [
        {
            "memory_share": share,
            "experts": round(slots * share),
            "busiest": pinned_share(profile, round(slots * share)),
            "latest": recent_share(profile.trace, round(slots * share)),
        }
        for share in SHARES
    ]


def _show_profile(path: Path, profile: "ExpertProfile", top: int) -> None:
    told = _profile_document(path, profile, top)
    named = profile.name or path.name
    click.echo(
        f"{named}: {told['choices']:.0f} choices in {count(told['layers'], 'layer')} of {told['experts']} experts"
    )
    if top:
        _show_top(told["top"])
    even = max(1, round(told["experts"] * 0.1)) / told["experts"]
    click.echo(f"skew: the busiest tenth of a layer gets {told['mean_skew']:.0%} of its choices (even: {even:.0%})")
    if told["overlap"] is not None:
        click.echo(f"overlap: {told['overlap']:.0%} of choices were the token's before, too")
    _show_held(told["held"])


def _show_top(top: list[dict[str, Any]]) -> None:
    from twd.kit.terminal import show, table

    rows = table("layer", "expert", "hits", "share of all")
    for one in top:
        rows.add_row(str(one["layer"]), str(one["expert"]), f"{one['hits']:.0f}", f"{one['share']:.2%}")
    show(rows)


def _show_held(held: list[dict[str, Any]]) -> None:
    from twd.kit.terminal import show, table

    rows = table("experts in memory", "the busiest hold", "the latest hold")
    for one in held:
        latest = "" if one["latest"] is None else f"{one['latest']:.0%}"
        rows.add_row(f"{one['memory_share']:.0%}", f"{one['busiest']:.0%}", latest)
    show(rows)
