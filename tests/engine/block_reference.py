"""Heads that guess a block at once: tiny random ones of all kinds, and what each should guess, computed with numpy."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np

from tests.engine.head_inputs import tensors_of
from tests.engine.slices.recipes import VOCABULARY, Recipe, Weights, recipe
from twd.decoding.window import Sampler

RANK: Final = 8
CANDIDATES: Final = 4
KERNEL: Final = 3
_GROUPS: Final = 4
_WIDTH, _HEADS, _EACH, _EPSILON = 64, 2, 32, 1e-5
GuessedLogits = Iterator[tuple[Weights, float | None]]


def dspark(
    *, from_anchor: bool = True, confident: bool = True, known: int = VOCABULARY, words: int = 0, rank: int = RANK
) -> Recipe:
    """DSpark, for a model that knows so many tokens; with `words`, an output matrix of its own for every second one."""
    one = recipe("dflash")
    tensors: dict[str, tuple[int, ...]] = {
        "markov_w1.weight": (known, rank),
        "markov_w2.weight": (words or known, rank),
    }
    if confident:
        tensors |= {"conf_proj.weight": (1, _WIDTH + rank), "conf_proj.bias": (1,)}
    if words:
        tensors |= {"output.weight": (words, _WIDTH), "d2t": (words,)}
    fields: dict[str, tuple[str, Any]] = {
        "sample_from_anchor": ("BOOL", from_anchor),
        "has_confidence_head": ("BOOL", confident),
    }
    return replace(one, fields=one.fields | fields, tensors=one.tensors | tensors)


def deepseek(*, linked: bool = True) -> Recipe:
    """A DSpark head with two layers as those of DeepSeek V4; without `linked`, no guess regards the one before it."""
    like, one = recipe("deepseek4"), recipe("dflash")
    width = like.fields["embedding_length"][1]
    tensors: dict[str, tuple[int, ...]] = {"fc.weight": (width, 3 * width), "enc.output_norm.weight": (width,)}
    if linked:
        tensors |= {"markov_w1.weight": (VOCABULARY, RANK), "markov_w2.weight": (VOCABULARY, RANK)}
    own = ("blk.0.", "blk.1.", "output_hc", "output_norm")
    tensors |= {name: shape for name, shape in like.tensors.items() if name.startswith(own) and "_vl." not in name}
    said = ("target_layers", "block_size", "block_count", "tokenizer.ggml.mask_token_id")
    fields = {name: field for name, field in like.fields.items() if name not in _OF_DEEPSEEK}
    fields |= {name: one.fields[name] for name in said}
    fields |= {"attention.compress_ratios": ("UINT32", [0, 0]), "sample_from_anchor": ("BOOL", False)}
    return Recipe("dflash", fields, tensors)


_OF_DEEPSEEK: Final = (
    "attention.sliding_window_pattern",
    "leading_dense_block_count",
    "logit_scale",
    "residual_scale",
    "rope.dimension_sections",
)


def dflash_2() -> Recipe:
    """DFlash 2."""
    one, projected = recipe("dflash"), 2 * KERNEL * _GROUPS
    tensors: dict[str, tuple[int, ...]] = {
        "selector_predecessor.weight": (VOCABULARY, RANK),
        "selector_successor.weight": (VOCABULARY, RANK),
        "selector_hidden.weight": (RANK, _WIDTH),
    }
    for layer in range(2):
        for part in ("attn", "ffn"):
            tensors[f"blk.{layer}.{part}_conv_base"] = (2, KERNEL, _WIDTH)
            tensors[f"blk.{layer}.{part}_conv_proj.weight"] = (projected, _WIDTH)
    sizes = {
        "conv_kernel_size": KERNEL,
        "conv_group_size": _WIDTH // _GROUPS,
        "selector_rank": RANK,
        "selector_top_k": CANDIDATES,
    }
    return replace(
        one,
        fields=one.fields | {name: ("UINT32", size) for name, size in sizes.items()},
        tensors=one.tensors | tensors,
    )


def strong(name: str, values: Weights) -> Any:
    """Weights with which a guess depends on what masks see, and on the token before."""
    if name == "d2t":
        return np.arange(0, 2 * len(values), 2, dtype=np.int64)
    if name.endswith("attn_output.weight"):
        return 20 * values
    if name == "conf_proj.weight":
        return values / 4
    return 6 * values if name.startswith(("markov", "selector_s")) else values


@dataclass(frozen=True)
class BlockReference:
    """A head with the target's embedding, and its output matrix if it has none of its own."""

    path: Path
    target: Path

    @cached_property
    def tensors(self) -> dict[str, Weights]:
        shared, own = tensors_of(self.target), tensors_of(self.path)
        return {name: shared[name] for name in ("token_embd.weight", "output.weight")} | own

    @cached_property
    def fields(self) -> dict[str, Any]:
        return {key: field.contents() for key, field in gguf.GGUFReader(self.path).fields.items()}

    def guess(
        self, inputs: Weights, text: Sequence[int], count: int, sampler: Sampler
    ) -> tuple[list[int], list[float]]:
        """The guesses behind `text`, and how sure the head is. `inputs`: what it reads of all tokens but the last."""
        written, sure = list(text), list[float]()
        for logits, confidence in self._places(inputs, written, count):
            token = sampler.pick(logits.astype(np.float32), written)
            shares = np.exp(logits - logits.max())
            told = confidence if confidence is not None and token == logits.argmax() else None
            sure.append(float(shares[token] / shares.sum()) if told is None else told)
            written.append(token)
        return written[len(text) :], sure

    def _places(self, inputs: Weights, text: list[int], count: int) -> GuessedLogits:
        first = 0 if "markov_w1.weight" in self.tensors and self.fields["dflash.sample_from_anchor"] else 1
        count = min(count, self.fields["dflash.block_size"] - first)
        masks = [self.fields["tokenizer.ggml.mask_token_id"]] * (count - 1 + first)
        states = self._states(inputs, [text[-1], *masks])[first:]
        rows = self._spread(states @ self.tensors["output.weight"].T, -np.inf)
        yield from (self._chosen if "selector_hidden.weight" in self.tensors else self._linked)(states, rows, text)

    def _linked(self, states: Weights, rows: Weights, text: list[int]) -> GuessedLogits:
        """DSpark: each guess follows the one before it."""
        for state, row in zip(states, rows, strict=True):
            if "markov_w1.weight" not in self.tensors:
                yield row, None
                continue
            before = self.tensors["markov_w1.weight"][text[-1]]
            told = None
            if "conf_proj.weight" in self.tensors:
                weight, bias = self.tensors["conf_proj.weight"][0], self.tensors["conf_proj.bias"][0]
                told = float(1 / (1 + np.exp(-(np.concatenate((state, before)) @ weight + bias))))
            yield row + self._spread(self.tensors["markov_w2.weight"] @ before, 0.0), told

    def _chosen(self, states: Weights, rows: Weights, text: list[int]) -> GuessedLogits:
        """DFlash 2: each guess is one of a few, by how it goes with the one before it."""
        for state, row in zip(states, rows, strict=True):
            known = np.argsort(row)[-CANDIDATES:]
            before = self.tensors["selector_predecessor.weight"][text[-1]] * (
                self.tensors["selector_hidden.weight"] @ state
            )
            found = np.full_like(row, -np.inf)
            found[known] = row[known] + self.tensors["selector_successor.weight"][known] @ before
            yield found, None

    def _spread(self, rows: Weights, rest: float) -> Weights:
        if "d2t" not in self.tensors:
            return rows
        whole = np.full((*rows.shape[:-1], VOCABULARY), rest)
        whole[..., self.tensors["d2t"]] = rows
        return whole

    def _states(self, inputs: Weights, block: Sequence[int]) -> Weights:
        """The last states of a block behind the tokens that were read."""
        past = len(inputs)
        read = _norm(inputs @ self.tensors["fc.weight"].T, self.tensors["enc.output_norm.weight"])
        states = self.tensors["token_embd.weight"][list(block)]
        for layer in range(2):
            states = states + self._turned(layer, "attn", states, partial(self._attended, layer, read, past))
            states = states + self._turned(layer, "ffn", states, partial(self._fed, layer))
        return _norm(states, self.tensors["output_norm.weight"])

    def _turned(self, layer: int, part: str, states: Weights, compute: Callable[[Weights], Weights]) -> Weights:
        """A part of a layer, between the two convolutions that DFlash 2 has there."""
        at = f"blk.{layer}.{part}_"
        states = _norm(states, self.tensors[f"{at}norm.weight"])
        if f"{at}conv_base" not in self.tensors:
            return compute(states)
        mixed = (states @ self.tensors[f"{at}conv_proj.weight"].T).reshape(len(states), 2, KERNEL, _GROUPS)
        weights = np.repeat(mixed, _WIDTH // _GROUPS, axis=3) + self.tensors[f"{at}conv_base"]
        return _convolved(compute(_convolved(states, weights[:, 0])), weights[:, 1])

    def _attended(self, layer: int, read: Weights, past: int, states: Weights) -> Weights:
        def of(name: str, rows: Weights) -> Weights:
            found = rows @ self.tensors[f"blk.{layer}.attn_{name}.weight"].T
            return found.reshape(len(rows), _HEADS, _EACH)

        seen = np.concatenate((of("k", read), of("k", states)))
        keys = _rotated(_norm(seen, self.tensors[f"blk.{layer}.attn_k_norm.weight"]), 0)
        values = np.concatenate((of("v", read), of("v", states)))
        asked = _rotated(_norm(of("q", states), self.tensors[f"blk.{layer}.attn_q_norm.weight"]), past)
        scores = np.einsum("qhe,khe->hqk", asked, keys) / np.sqrt(_EACH)
        shares = np.exp(scores - scores.max(axis=2, keepdims=True))
        shares /= shares.sum(axis=2, keepdims=True)
        heads = np.einsum("hqk,khe->qhe", shares, values).reshape(len(states), _WIDTH)
        output: Weights = self.tensors[f"blk.{layer}.attn_output.weight"]
        return product(heads, output)

    def _fed(self, layer: int, states: Weights) -> Weights:
        gate, up, down = (self.tensors[f"blk.{layer}.ffn_{name}.weight"] for name in ("gate", "up", "down"))
        gated = product(states, gate)
        return product(gated / (1 + np.exp(-gated)) * product(states, up), down)


def product(rows: Weights, matrix: Weights) -> Weights:
    return np.asarray(rows @ matrix.T)


def _norm(rows: Weights, weight: Weights) -> Weights:
    sizes = np.sqrt((rows * rows).mean(axis=-1, keepdims=True) + _EPSILON)
    return np.asarray(weight * rows / sizes)


def _rotated(rows: Weights, start: int) -> Weights:
    """Turn the first half of each head against the second by its position."""
    half = _EACH // 2
    speeds = 10000.0 ** (-np.arange(half) / half)
    angles = (start + np.arange(len(rows)))[:, None, None] * speeds
    first, second = rows[..., :half], rows[..., half:]
    turned = first * np.cos(angles) - second * np.sin(angles), first * np.sin(angles) + second * np.cos(angles)
    return np.concatenate(turned, axis=-1)


def _convolved(states: Weights, weights: Weights) -> Weights:
    padded = [np.pad(states, ((tap, 0), (0, 0)))[: len(states)] for tap in range(KERNEL)]
    return sum((weights[:, tap] * padded[tap] for tap in range(KERNEL)), np.zeros_like(states))
