"""The sizes of a model's parts, read from its file."""

import logging
from dataclasses import replace
from pathlib import Path

from twd.coordinator.core.pass_time import FORECAST_TOKENS, MixtureShape
from twd.coordinator.core.placement.values import ModelShape
from twd.engine.experts.layout import expert_layout
from twd.gguf_tools.head_file import apart_bytes, head_cache_bytes, head_weights, own_head_problem
from twd.gguf_tools.inspect import GgufInfo, inspect
from twd.gguf_tools.slice import read_cuts
from twd.gguf_tools.step_reads import EMBEDDING, share_of_experts, step_reads
from twd.moe.profile import held_curve
from twd.moe.profile_files import profile_for, profile_path
from twd.settings.model import ModelConfig
from twd.settings.paths import path_of
from twd.wire.failures import FailureCode, TwdError

_log = logging.getLogger("twd.coordinator")
_STATES = 9
"""How many states of a session a stage holds: the current one, and snapshots to go back to."""


def read_shape(
    name: str, model: ModelConfig, engine: str, copy: Path | None = None, home: Path | None = None
) -> ModelShape:
    """Return the sizes of the model's parts; raises where the file cannot be used, or a ring cannot cut it.

    `copy`: where its header is, if not in its own file. `home`: the state folder, which may keep a profile of
    its experts.
    """
    path = copy or path_of(model.path)
    info = inspect(path)
    shape = shape_of(name, info, *model.cache_types)
    if engine != "ring":
        return shape
    own = head_weights(info) if not own_head_problem(info) else 0
    beside = (
        apart_bytes(info) + head_cache_bytes(info, (model.ctx_size or info.context_length) * model.parallel)
        if own
        else 0
    )
    return replace(
        shape,
        cuts=read_cuts(path),
        mixture=_mixture(path, model, shape, home),
        embedding_bytes=shape.embedding_bytes - own,
        own_head_bytes=own + beside,
    )


def _mixture(path: Path, model: ModelConfig, shape: ModelShape, home: Path | None) -> MixtureShape:
    """Return what stages may read from disk; nothing where they may not."""
    layout = None if model.moe_stream == "off" else expert_layout(path)
    if layout is None:
        return replace(shape.mixture, stream=model.moe_stream)
    sums = [0] * len(shape.layer_bytes)
    for matrix in layout.matrices:
        if matrix.layer < len(sums):
            sums[matrix.layer] += matrix.each * matrix.experts
    limit = 0 if model.moe_memory_gb == "auto" else int(model.moe_memory_gb * 2**30)
    held = _held(path, model, home, sum({matrix.layer: matrix.experts for matrix in layout.matrices}.values()))
    return replace(shape.mixture, layer_bytes=tuple(sums), limit=limit, stream=model.moe_stream, held=held)


def _held(path: Path, model: ModelConfig, home: Path | None, slots: int) -> tuple[float, ...]:
    """Return which share of choices memory serves, by the profile of the settings or the one that is kept."""
    if home is None or not path.is_file():
        return ()
    source = profile_path(model.moe_hot_profile, home, path)
    if source is None:
        return ()
    try:
        return held_curve(profile_for(source, path), slots)
    except TwdError as error:  # forecasts do without
        _log.warning("the profile of %s is not used: %s", path.name, error)
        return ()


def shape_of(name: str, info: GgufInfo, type_k: str = "f16", type_v: str = "f16") -> ModelShape:
    """Return the model's sizes from its inspected file; `type_k` and `type_v` are the number formats of the KV
    cache."""
    if not info.layers:
        raise TwdError(FailureCode.MODEL_LOAD, f"{info.path} tells of no layers; it is no language model")
    sizes = {tensor.name: tensor.size_bytes for tensor in info.tensors}
    embedding = sizes.get(EMBEDDING, 0)
    reads = step_reads(info)
    own_head = reads.head_bytes if "output.weight" in sizes else reads.head_bytes - embedding
    counted = embedding + own_head
    return ModelShape(
        name=name,
        layer_bytes=tuple(info.layer_bytes),
        head_bytes=reads.head_bytes,
        embedding_bytes=embedding + max(0, info.other_bytes - counted),
        embedding=info.embedding,
        vocabulary=info.vocabulary,
        kv_layer=-(-info.kv_bytes_per_token(type_k, type_v) // info.layers),
        ctx_size=info.context_length,
        reads=reads.kinds,
        head_kind=reads.head_kind,
        read_tokens=FORECAST_TOKENS,
        state_layer=-(-info.state_bytes * _STATES // info.layers),
        mixture=MixtureShape(share=share_of_experts(info)),
    )
