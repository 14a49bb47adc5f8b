"""The option --head of commands that serve a model, and what is said of the heads of a model."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from twd.settings.paths import path_of
from twd.wire.failures import TwdError

if TYPE_CHECKING:
    from twd.gguf_tools.inspect import GgufInfo
    from twd.settings.model import Settings


def _whole(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    return str(path_of(value).absolute()) if value else ""


head_option = click.option(
    "--head",
    default="",
    metavar="FILE",
    callback=_whole,
    help="GGUF file of a trained head that guesses for a model.",
)


def head_words(settings: "Settings") -> Iterator[str]:
    """One line for each served model that a named head does not guess for."""
    from twd.gguf_tools.inspect import inspect

    for name, model in settings.models.items():
        if model.serve:
            try:
                info = inspect(path_of(model.path))
            except TwdError:
                continue  # the model is refused with its reason
            if words := problem_words(settings, name, info):
                yield f"{name}: {words}"


def problem_words(settings: "Settings", name: str, info: "GgufInfo") -> str:
    """Why the named head does not guess for a model; empty if it does, or none is named."""
    head = _named_head(settings, name)
    problem = named_head_problem(settings, head, info) if head is not None else ""
    return f"{problem}; it is served without this head" if problem else ""


def _named_head(settings: "Settings", name: str) -> Path | None:
    """The file of the first trained head that the settings name for a model."""
    heads = (path_of(one.head) for one in settings.drafters if one.head and one.for_model in ("", name))
    return next(heads, None)


def named_head_problem(settings: "Settings", head: Path, info: "GgufInfo") -> str:
    """Why a head does not guess for a model; empty if it does."""
    from twd.gguf_tools.head_file import head_problem, pool_problem
    from twd.gguf_tools.header import read_header

    try:
        header = read_header(head)
    except TwdError as error:
        return str(error)
    return head_problem(header, info) or (pool_problem(header, settings.pool.engine) if settings.pooled else "")


def head_lines(settings: "Settings", name: str, info: "GgufInfo") -> Iterator[str]:
    """What guesses for a model without a model of its own: the head that is named, else the one in its file."""
    from twd.gguf_tools.head_report import own_head_facts, own_head_words

    head, problem = _named_head(settings, name), problem_words(settings, name, info)
    if head is not None and not problem:
        yield f"{head.name} guesses; it takes {head.stat().st_size / 2**20:,.4g} MiB"
        return
    if problem:
        yield problem
    own = own_head_facts(info)
    if own is not None:
        yield f"{own_head_words(own)}{own_head_place(settings) if not own.problem else ''}"


def own_head_place(settings: "Settings") -> str:
    """Where a model's own head guesses."""
    if not settings.speculation.enabled or not settings.speculation.own_head:
        return "; `speculation.own_head` is off"
    if not settings.pooled:
        return ""
    if settings.pool.engine == "ring":
        return "; it guesses on the last stage"
    return "; it guesses if the output head stays on the machine that serves"
