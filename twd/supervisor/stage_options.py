"""The options of `twd run stage` besides its model: which layers, what sizes, where to listen."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click

from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.net.addresses import told_host
from twd.process.compute import ALL_LAYERS
from twd.settings.model import ModelConfig, Settings
from twd.settings.paths import path_of
from twd.wire.node import CPU

if TYPE_CHECKING:
    from twd.engine.slices.engine import StagePlan
    from twd.kit.service import Service, ServiceContext

F = TypeVar("F", bound=Callable[..., Any])
_LAYERS: Final = re.compile(r"(\d+)-(\d+)")


class StageChoice(NamedTuple):
    """A slice, and how to compute it; zeros and empty strings leave the choice to the settings or the engine."""

    name: str = ""
    layers: str = ""
    head: bool = False
    ctx: int = 0
    parallel: int = 0
    threads: int = 0
    gpu_layers: str = ""
    type_k: str = ""
    type_v: str = ""
    no_exact: bool = False
    no_flash_attn: bool = False
    no_mmap: bool = False
    moe_stream: str | None = None
    moe_memory: int = 0
    device: str = ""
    hash: str = ""
    host: str = ""
    port: int = 0


def stage_options(command: F) -> F:
    """Add the options of `twd run stage` to a command; a drafter takes some of them, too."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_OPTIONS: Final = (
    click.option("--name", default="", help="Stage, drafter: the model's name for others; otherwise the file's."),
    click.option("--layers", default="", metavar="A-B", help="Stage: its layers, B not included; without: all."),
    click.option("--head", is_flag=True, help="Stage: it holds the output head, too."),
    click.option("--ctx", default=0, help="Stage, drafter: tokens of context for one session."),
    click.option("--parallel", default=0, help="Stage: sessions at once."),
    click.option("--threads", default=0, help="Stage, drafter: CPU threads."),
    click.option("--gpu-layers", default="", help="Stage, drafter: layers on the GPU, or auto."),
    click.option("--type-k", default="", help="Stage: number format of the K cache."),
    click.option("--type-v", default="", help="Stage: number format of the V cache."),
    click.option("--no-exact", is_flag=True, help="Stage: do without the settings that make texts exact."),
    click.option("--no-flash-attn", is_flag=True, help="Stage: do without flash attention."),
    click.option("--no-mmap", is_flag=True, help="Stage: read the slice instead of mapping it."),
    click.option(
        "--moe-stream",
        type=click.Choice(["auto", "on", "off"]),
        help="Stage: read a mixture's experts from disk while it computes; auto: if memory lacks.",
    ),
    click.option("--moe-memory", default=0, metavar="BYTES", help="Stage: for experts read so; 0: what is free."),
    click.option("--device", default="", help="Stage: CPU, or the GPU that holds it, as llama.cpp names it."),
    click.option("--hash", default="", help="Stage: of the model; it refuses to cut another file."),
    click.option("--host", default="", help="Stage: where it listens; otherwise `pool.host`."),
    click.option("--port", default=0, help="Stage: its port; 0 takes a free one."),
)


def stage_of(context: "ServiceContext", settings: Settings, model: str, choice: StageChoice) -> "Service":
    """Return the stage that the options describe; `model` is a name in the settings, or a file."""
    from twd.engine.experts.budget import ExpertWish
    from twd.stage.native import SlicePlan, native_stage
    from twd.stage.service import StageAddress
    from twd.wire.base import ModelId

    known = settings.models.get(model)
    if known is None and not model.endswith(".gguf"):
        raise CommandError(
            ExitCode.NOT_FOUND, f"there is no model {model!r} in the settings; give a name or a GGUF file"
        )
    wanted = known or ModelConfig(path=model)
    plan = _plan_of(settings, wanted, choice)
    name = choice.name or (model if known else plan.path.stem)
    host = choice.host or settings.pool.host
    address = StageAddress(host, choice.port, told_host(host))
    granted = 0 if wanted.moe_memory_gb == "auto" else int(wanted.moe_memory_gb * 2**30)
    wish = ExpertWish(choice.moe_stream or wanted.moe_stream, choice.moe_memory or granted)
    whole = SlicePlan(ModelId(name), plan.path, plan, hash=choice.hash, experts=wish)
    return native_stage(context, settings, whole, address)


def _plan_of(settings: Settings, wanted: ModelConfig, choice: StageChoice) -> "StagePlan":
    """Which slice, and how to compute it: as chosen, else as the settings say."""
    from twd.engine.slices.engine import StagePlan

    first, end = _range(choice.layers)
    return StagePlan(
        path=path_of(wanted.path),
        first=first,
        end=end,
        layers=0,
        head=choice.head or not choice.layers,
        ctx_size=choice.ctx or wanted.ctx_size,
        parallel=choice.parallel or wanted.parallel,
        gpu_layers=0 if choice.device == CPU else _gpu_layers(choice.gpu_layers or str(wanted.gpu_layers)),
        device=choice.device if choice.device != CPU else "",
        threads=choice.threads or (0 if wanted.threads == "auto" else wanted.threads),
        type_k=choice.type_k or ("" if wanted.cache_type_k == "auto" else wanted.cache_type_k),
        type_v=choice.type_v or ("" if wanted.cache_type_v == "auto" else wanted.cache_type_v),
        flash_attention=wanted.flash_attn != "off" and not choice.no_flash_attn,
        exact=bool(wanted.exact) and not choice.no_exact,
        use_mmap=wanted.mmap != "off" and not choice.no_mmap,
        own_head=settings.speculation.enabled and settings.speculation.own_head,
    )


def _range(layers: str) -> tuple[int, int]:
    """Return the first layer and the end; 0 and 0 mean all layers."""
    if not layers:
        return 0, 0
    found = _LAYERS.fullmatch(layers)
    if found is None or int(found[1]) > int(found[2]):
        raise CommandError(ExitCode.USAGE, f"--layers {layers!r} is no range; write it as 0-16, the end not included")
    return int(found[1]), int(found[2])


def _gpu_layers(text: str) -> int:
    if text != "auto" and not text.isdecimal():
        raise CommandError(ExitCode.USAGE, f"--gpu-layers {text!r} is neither a number nor auto")
    return ALL_LAYERS if text == "auto" else int(text)
