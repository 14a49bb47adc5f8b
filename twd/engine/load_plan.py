"""What is to be loaded and how, and what llama.cpp gets of it: options for the model, settings for its context."""

from dataclasses import dataclass
from pathlib import Path

from twd.engine.context import CTX_SIZE_MAX, EXACT_ROWS, FAST_ROWS, CacheLayout, ContextSettings
from twd.engine.model import ONE_SESSION, LoadedGguf, ModelLoadOptions
from twd.engine.rpc.pool import HEAD, PoolPlan, gpu_layers, layer_names, open_devices, tensor_split
from twd.engine.tensor_places import DevicePlacement
from twd.gguf_tools.inspect import inspect
from twd.wire.base import ModelId


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What to load and how. With zero or an empty string, the engine chooses."""

    model: ModelId
    path: Path
    ctx_size: int = 0
    parallel: int = 4
    exact: bool = True
    insist: bool = False
    """Be exact on GPUs, too, even if it is slow."""
    gpu_layers: int = 0
    threads: int = 0
    use_mmap: bool = True
    type_k: str = ""
    type_v: str = ""
    flash_attention: bool = True
    tree: bool = False
    branches: int = 7
    template: str = ""
    """A Jinja chat template that replaces the model's own."""
    drafts_max: int = 16
    """Most drafts of one window. If memory allows, a recurrent state gets this many snapshots."""
    test: bool = True
    """Run the self-test (windows against single steps) and measure the time of passes."""
    head: bool = False
    """Use the model's own head (multi-token prediction), if its file has one."""
    head_file: Path | None = None
    """The file of a trained head (EAGLE-3) that is used instead."""
    timed: bool = False
    """Measure the time of passes also if `test` is off."""
    memory: Path | None = None
    """A folder that keeps measurements, so that the same model is not measured again."""
    expert_bytes: int = 0
    """If given, experts of a mixture are read while it computes, and may take this much memory."""
    remember: bool = False
    """Remember which experts of a mixture each token chooses, where all of them are in this machine's memory."""
    placement: DevicePlacement | None = None
    """Where a mixture's layers and experts go on this machine. If given, `gpu_layers` is ignored."""
    pool: PoolPlan | None = None
    """Which layers go to which devices and RPC workers. If given, `gpu_layers` is ignored."""

    @property
    def on_cpus(self) -> bool:
        """Whether there is a pool, and all its layers are computed on CPUs."""
        return self.pool is not None and self.pool.on_cpus

    @property
    def away(self) -> bool:
        """Whether a pool gives some layers to other devices or machines."""
        return self.pool is not None and bool(self.pool.away)


def load_options(plan: LoadPlan) -> ModelLoadOptions:
    """The options for llama.cpp. In an exact pool no weights are repacked: RPC workers never repack, and the text must
    not depend on which machine holds a layer."""
    if plan.pool is None:
        placed = plan.placement or DevicePlacement(plan.gpu_layers)
        return ModelLoadOptions(
            path=plan.path,
            gpu_layers=placed.layers,
            use_mmap=plan.use_mmap,
            devices=placed.devices,
            tensor_split=placed.split,
            expert_places=placed.places,
            head=plan.head,
            expert_bytes=plan.expert_bytes,
            remember=plan.remember,
        )
    info, head_here = inspect(plan.path), plan.pool.head_here and bool(plan.pool.away)
    own_head = [layer_names(info.layers, info.layers + info.head_layers)] if info.head_layers else []
    return ModelLoadOptions(
        path=plan.path,
        gpu_layers=gpu_layers(plan.pool, info.head_layers),
        use_mmap=plan.use_mmap,
        use_extra_bufts=not plan.exact,
        devices=open_devices(plan.pool),
        tensor_split=tensor_split(plan.pool, info.head_layers),
        head=plan.head and (head_here or not plan.pool.away),
        host_tensors=(HEAD, *own_head) if head_here else (),
    )


def wanted_context(plan: LoadPlan, model: LoadedGguf) -> ContextSettings:
    """The context that the plan asks for, before exactness limits its settings."""
    trained = model.ctx_train or CTX_SIZE_MAX
    exact = plan.exact and (plan.insist or plan.on_cpus or not model.offloads)
    return ContextSettings(
        ctx_size=min(plan.ctx_size or CTX_SIZE_MAX, trained),
        parallel=1 if plan.tree or model.info.architecture in ONE_SESSION else plan.parallel,
        layout=CacheLayout.TREE if plan.tree else CacheLayout.STREAMS,
        branches=plan.branches if plan.tree else 0,
        type_k=plan.type_k or "f16",
        type_v=plan.type_v or "f16",
        flash_attention=plan.flash_attention,
        threads=plan.threads,
        ubatch=EXACT_ROWS if exact else FAST_ROWS,
    )
