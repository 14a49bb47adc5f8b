"""The head as JAX computes it: the same sums as llama.cpp's `eagle3`, for whole texts at once, and its loss.

At place P the head reads the token behind P and a vector of place P, and tells the token after that. In its first step
that vector comes from the target; in step S it is what the head itself made of the place before, in step S - 1, as it
will be when it guesses several tokens in a row. So it learns from its own mistakes (EAGLE-3's training-time test).
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

Array = Any  # JAX's arrays; mypy runs where JAX is not installed
Weights = dict[str, Array]
_FAR = -1e30


@dataclass(frozen=True)
class Shape:
    """The sizes of a head that are not seen in its weights."""

    heads: int
    size: int
    base: float
    epsilon: float


def encoded(weights: Weights, inputs: Array, shape: Shape) -> Array:
    """One vector of the inputs of the target's three layers."""
    return _norm(inputs.astype(jnp.float32), weights["enc.output_norm"], shape) @ weights["fc"]


def loss(weights: Weights, batch: dict[str, Array], shape: Shape, steps: int, fade: float) -> tuple[Array, Array]:
    """The mean cross entropy of all steps, of which later ones count less; and of each step the share of tokens that it
    tells as the target does."""
    chances = jax.nn.softmax(batch["last"].astype(jnp.float32) @ weights["output"].T)
    counted = batch["counted"]
    total, right, keys, values = 0.0, [], list[Array](), list[Array]()
    state = encoded(weights, batch["inputs"], shape)
    for step in range(steps):
        if step:
            state = jnp.pad(state, ((0, 0), (1, 0), (0, 0)))[:, :-1]
            counted = counted * _begun(batch, step)
        state = layer(weights, batch, state, keys, values, shape)
        logits = _norm(state, weights["output_norm"], shape) @ weights["output"].T
        entropy = -(chances * jax.nn.log_softmax(logits)).sum(-1)
        kept = counted * batch["known"]
        total += fade**step * (entropy * kept).sum() / jnp.maximum(kept.sum(), 1)
        hits = (logits.argmax(-1) == batch["answers"]) * kept
        right.append(hits.sum() / jnp.maximum(counted.sum(), 1))
    return total / sum(fade**step for step in range(steps)), jnp.stack(right)


def _begun(batch: dict[str, Array], step: int) -> Array:
    """Where a run of guesses that is now in this step began in the same text, at a place that counts."""
    before = {name: jnp.pad(batch[name], ((0, 0), (step, 0)))[:, :-step] for name in ("counted", "texts")}
    return before["counted"] * (before["texts"] == batch["texts"])


def layer(
    weights: Weights, batch: dict[str, Array], state: Array, keys: list[Array], values: list[Array], shape: Shape
) -> Array:
    """The head's layer. `keys` and `values` are those of the steps before; this step's are added."""
    both = jnp.concatenate(
        (_norm(batch["tokens"], weights["attn_norm"], shape), _norm(state, weights["attn_norm_2"], shape)), axis=-1
    )
    query, key, value = (_split(both @ weights[name], shape) for name in ("attn_q", "attn_k", "attn_v"))
    keys.append(_turned(key, batch["places"], shape))
    values.append(value)
    read = _attended(_turned(query, batch["places"], shape), keys, values, batch["texts"])
    state = state + read.reshape(*read.shape[:2], -1) @ weights["attn_output"]
    inner = _norm(state, weights["ffn_norm"], shape)
    return state + (jax.nn.silu(inner @ weights["ffn_gate"]) * (inner @ weights["ffn_up"])) @ weights["ffn_down"]


def _attended(query: Array, keys: list[Array], values: list[Array], texts: Array) -> Array:
    """What each place reads: of places further back the keys of the first step, of the last ones those of the step that
    the head was in there."""
    count, back = texts.shape[1], len(keys) - 1
    scale = query.shape[-1] ** -0.5
    rows, columns = jnp.arange(count)[:, None], jnp.arange(count)[None]
    seen = (columns <= rows - back) & (texts[:, :, None] == texts[:, None, :])
    scores = [jnp.where(seen[:, None], jnp.einsum("bqhd,bkhd->bhqk", query, keys[0]), _FAR)]
    for step in range(1, back + 1):
        own = jnp.einsum("bqhd,bqhd->bhq", query, _moved(keys[step], back - step))
        scores.append(own[..., None])
    shares = jax.nn.softmax(jnp.concatenate(scores, axis=-1) * scale)
    read = jnp.einsum("bhqk,bkhd->bqhd", shares[..., :count], values[0])
    for step in range(1, back + 1):
        share = shares[..., count + step - 1].swapaxes(1, 2)[..., None]
        read += share * _moved(values[step], back - step)
    return read


def _moved(rows: Array, places: int) -> Array:
    """Rows of so many places before."""
    return jnp.pad(rows, ((0, 0), (places, 0), (0, 0), (0, 0)))[:, : rows.shape[1]]


def _split(rows: Array, shape: Shape) -> Array:
    return rows.reshape(*rows.shape[:2], shape.heads, shape.size)


def _norm(rows: Array, weight: Array, shape: Shape) -> Array:
    return rows * jax.lax.rsqrt((rows * rows).mean(-1, keepdims=True) + shape.epsilon) * weight


def _turned(rows: Array, places: Array, shape: Shape) -> Array:
    """Rows with their places turned in; neighbours make a pair, as llama.cpp has it for this architecture."""
    speeds = shape.base ** (-jnp.arange(0, shape.size, 2) / shape.size)
    angles = places[:, :, None, None] * speeds
    even, odd = rows[..., ::2], rows[..., 1::2]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.stack((even * cos - odd * sin, even * sin + odd * cos), axis=-1).reshape(rows.shape)


def adam(weights: Weights, slopes: Weights, moments: Any, rate: Array, number: Array) -> tuple[Weights, Any]:
    """One step of Adam, with slopes cut to a length of 1."""
    length = jnp.sqrt(sum((slope * slope).sum() for slope in slopes.values()))
    cut = jnp.minimum(1.0, 1.0 / (length + 1e-9))
    first, second = moments
    first = {name: 0.9 * first[name] + 0.1 * cut * slope for name, slope in slopes.items()}
    second = {name: 0.98 * second[name] + 0.02 * (cut * slope) ** 2 for name, slope in slopes.items()}
    even, wide = 1 - 0.9**number, 1 - 0.98**number
    changed = {
        name: weight - rate * (first[name] / even) / (jnp.sqrt(second[name] / wide) + 1e-8)
        for name, weight in weights.items()
    }
    return changed, (first, second)
