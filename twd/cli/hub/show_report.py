"""The facts of a model, for people."""

from typing import TYPE_CHECKING, Any

import click

from twd.kit.wording import count

if TYPE_CHECKING:
    from twd.models.report import ModelReport, TensorRole


def show_report(report: "ModelReport", told: dict[str, Any]) -> None:
    """Print lines of facts, and the types of the tensors. `told`: where it is from, and who has it."""
    from twd.engine.host_memory.limits import gib
    from twd.kit.terminal import printable, show, table

    for line in (*_facts(report), *_whereabouts(told)):
        click.echo(printable(line))
    rows = table("tensors", "number", "shape", "types", "size")
    for role in report.tensors:
        shape = " x ".join(map(str, role.shape))
        rows.add_row(printable(role.name), str(role.tensors), shape, _types(role), gib(role.size_bytes))
    for share in report.types:
        rows.add_row("", str(share.tensors), "", f"all {share.type}", gib(share.size_bytes))
    show(rows)


def _types(role: "TensorRole") -> str:
    if len(role.types) == 1:
        return next(iter(role.types))
    return ", ".join(f"{kind} x{number}" for kind, number in role.types.items())


def _facts(report: "ModelReport") -> list[str]:
    from twd.engine.host_memory.limits import gib

    size = f"{gib(report.size_bytes)} in {count(report.files, 'file')}"
    heads = f"{count(report.heads, 'head')} of {report.key_length}, {report.kv_heads} for keys and values"
    cache = report.cache_bytes_per_token
    return [
        f"{report.name}: {report.architecture}, {_parameters(report.parameters)} parameters, {report.quantization}",
        f"size: {size}, {report.bits_per_weight:g} bits a weight",
        f"layers: {report.layers} of {_range(report.layer_bytes)}, {gib(report.other_bytes)} outside of them; {heads}; "
        f"width {report.embedding}",
        f"context: {report.context_length:,} tokens; a token takes {cache / 1024:,.4g} KiB of cache in F16",
        f"vocabulary: {report.vocabulary:,} tokens ({report.tokenizer or 'not told'}); {_template(report)}",
        _experts(report),
        *_head(report),
        _cut(report),
    ]


def _head(report: "ModelReport") -> list[str]:
    from twd.gguf_tools.head_report import own_head_words

    if report.head_file:
        return [f"head: {report.head_file}"]
    return [f"head: {own_head_words(report.own_head)}"] if report.own_head is not None else []


def _parameters(number: int) -> str:
    return f"{number / 1e9:.3g} billion" if number >= 1e9 else f"{number / 1e6:.3g} million"


def _range(sizes: list[int]) -> str:
    from twd.engine.host_memory.limits import gib

    least, most = gib(min(sizes, default=0)), gib(max(sizes, default=0))
    return least if least == most else f"{least} to {most}"


def _template(report: "ModelReport") -> str:
    text = report.chat_template
    if not text:
        return "no chat template"
    return f"chat template of {len(text):,} characters{', with tools' if 'tools' in text else ''}"


def _experts(report: "ModelReport") -> str:
    from twd.engine.host_memory.limits import gib

    mixture = report.experts
    if mixture is None:
        return "experts: none"
    shared = ", and shared ones" if mixture.shared else ""
    text = f"experts: {mixture.experts}, {mixture.used} used by a token{shared}; {gib(mixture.size_bytes)} of them"
    return text if mixture.layout == "fused" else f"{text}; stored singly, so `twd moe fuse` first"


def _cut(report: "ModelReport") -> str:
    cut = report.cut
    if not cut.possible:
        return f"cuts: none; {cut.why_not}"
    more = f", beginning at multiples of {cut.begins_at_multiples_of}" if cut.begins_at_multiples_of > 1 else ""
    never = ", ".join(map(str, cut.never_of_layers))
    return f"cuts: between any two layers{more}" + (f", but no slice of {never} layers" if never else "")


def _whereabouts(told: dict[str, Any]) -> list[str]:
    lines = []
    if "origin" in told:
        lines.append(f"from: {told['origin']}, of which {told['fetched_bytes'] / 2**20:,.1f} MiB were fetched")
    for one in told["who_has_it"]:
        by = f" (by {one['same']})" if one.get("same", "hash") != "hash" else ""
        lines.append(f"there: {one['where']}, {one['path']}{by}")
    return lines
