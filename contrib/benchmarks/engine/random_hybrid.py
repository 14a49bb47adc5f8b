"""Models with random weights and a recurrent state, large enough that passes take as long as real ones.

What they say makes no sense; how long a pass takes, and how a rejected draft is undone, does not depend on that.
"""

from pathlib import Path

import gguf
import numpy as np

from contrib.benchmarks.moe.mixture import copy_vocabulary
from twd.engine.quantize import quantize

WIDTH, INNER, HEADS, KV_HEADS, HEAD, VOCABULARY, LAYERS = 1024, 3072, 8, 2, 128, 32000, 12
PERIOD = 4
"""One of so many layers has attention."""
KINDS = ("qwen35", "jamba")
"""llama.cpp's snapshots of the state; a state that is saved before each window."""


def random_hybrid(
    cache: Path, architecture: str, kind: str = "q8_0", words: Path | None = None, *, head: bool = False
) -> Path:
    """One of about 200 million weights of `kind`, written once. `words`: a model whose vocabulary it has; `head`: a
    qwen35 gets a head of its own."""
    name = f"random-{architecture}{'-head' if head else ''}{f'-{words.stem}' if words is not None else ''}"
    target = cache / f"{name}-{kind}.gguf"
    if target.exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    source = cache / f"{name}-f16.gguf"
    if not source.exists():
        _Writer(source, architecture, words, head).write()
    return source if kind == "f16" else quantize(source, target, kind)


class _Writer:
    """Writes one model with weights in half precision."""

    def __init__(self, path: Path, architecture: str, words: Path | None, head: bool) -> None:
        self._path, self._words, self._head = path, words, head
        self._vocabulary = VOCABULARY
        self._gguf = gguf.GGUFWriter(path, architecture)
        self._architecture = architecture
        self._dice = np.random.default_rng(0)

    def write(self) -> None:
        """The whole file; it appears complete or not at all."""
        self._fields()
        self._matrix("token_embd.weight", self._vocabulary, WIDTH)
        self._matrix("output.weight", self._vocabulary, WIDTH)
        self._ones("output_norm.weight", WIDTH)
        for layer in range(LAYERS):
            self._layer(f"blk.{layer}.", attends=(layer + 1) % PERIOD == 0)
        if self._head:
            self._layer(f"blk.{LAYERS}.", attends=True)
            self._guesses(f"blk.{LAYERS}.nextn.")
        unfinished = self._path.with_suffix(".part")
        self._gguf.write_header_to_file(unfinished)
        self._gguf.write_kv_data_to_file()
        self._gguf.write_tensors_to_file()
        self._gguf.close()
        unfinished.replace(self._path)

    def _fields(self) -> None:
        to, qwen = self._gguf, self._architecture == "qwen35"
        if self._words is None:
            to.add_tokenizer_model("no_vocab")
            to.add_vocab_size(VOCABULARY)
        else:
            self._vocabulary = copy_vocabulary(self._words, to)
        to.add_context_length(8192)
        to.add_embedding_length(WIDTH)
        to.add_feed_forward_length(INNER)
        to.add_block_count(LAYERS + self._head)
        to.add_head_count(HEADS)
        to.add_head_count_kv(KV_HEADS if qwen else [KV_HEADS * ((at + 1) % PERIOD == 0) for at in range(LAYERS)])
        to.add_key_length(HEAD)
        to.add_value_length(HEAD)
        to.add_layer_norm_rms_eps(1e-5)
        to.add_ssm_conv_kernel(4)
        to.add_ssm_inner_size(2 * WIDTH)
        to.add_ssm_state_size(HEAD if qwen else 16)
        to.add_ssm_time_step_rank(16 if qwen else 64)
        if qwen:
            to.add_ssm_group_count(8)
            to.add_rope_dimension_sections([16, 8, 8, 0])
            to.add_rope_dimension_count(64)
            to.add_uint32("qwen35.full_attention_interval", PERIOD)
        if self._head:
            to.add_nextn_predict_layers(1)

    def _layer(self, at: str, *, attends: bool) -> None:
        self._ones(f"{at}attn_norm.weight", WIDTH)
        second = "post_attention_norm" if self._architecture == "qwen35" else "ffn_norm"
        self._ones(f"{at}{second}.weight", WIDTH)
        if attends:
            self._attention(at)
        elif self._architecture == "qwen35":
            self._delta_net(at)
        else:
            self._state_space(at)
        self._matrix(f"{at}ffn_gate.weight", INNER, WIDTH)
        self._matrix(f"{at}ffn_up.weight", INNER, WIDTH)
        self._matrix(f"{at}ffn_down.weight", WIDTH, INNER)

    def _guesses(self, at: str) -> None:
        self._matrix(f"{at}eh_proj.weight", WIDTH, 2 * WIDTH)
        for name in ("enorm", "hnorm", "shared_head_norm"):
            self._ones(f"{at}{name}.weight", WIDTH)

    def _attention(self, at: str) -> None:
        gated = 2 if self._architecture == "qwen35" else 1
        self._matrix(f"{at}attn_q.weight", gated * HEADS * HEAD, WIDTH)
        self._matrix(f"{at}attn_k.weight", KV_HEADS * HEAD, WIDTH)
        self._matrix(f"{at}attn_v.weight", KV_HEADS * HEAD, WIDTH)
        self._matrix(f"{at}attn_output.weight", WIDTH, HEADS * HEAD)
        if gated > 1:
            self._ones(f"{at}attn_q_norm.weight", HEAD)
            self._ones(f"{at}attn_k_norm.weight", HEAD)

    def _delta_net(self, at: str) -> None:
        inner, keys, heads = 2 * WIDTH, 8 * HEAD, 16
        self._matrix(f"{at}attn_qkv.weight", 2 * keys + inner, WIDTH)
        self._matrix(f"{at}attn_gate.weight", inner, WIDTH)
        self._floats(f"{at}ssm_conv1d.weight", 2 * keys + inner, 4)
        self._floats(f"{at}ssm_dt.bias", heads)
        self._ones(f"{at}ssm_a", heads, value=-1.0)
        self._matrix(f"{at}ssm_beta.weight", heads, WIDTH)
        self._matrix(f"{at}ssm_alpha.weight", heads, WIDTH)
        self._ones(f"{at}ssm_norm.weight", HEAD)
        self._matrix(f"{at}ssm_out.weight", WIDTH, inner)

    def _state_space(self, at: str) -> None:
        inner, state, rank = 2 * WIDTH, 16, 64
        for name, size in (("dt", rank), ("b", state), ("c", state)):
            self._ones(f"{at}ssm_{name}_norm.weight", size)
        self._matrix(f"{at}ssm_in.weight", 2 * inner, WIDTH)
        self._matrix(f"{at}ssm_x.weight", rank + 2 * state, inner)
        self._matrix(f"{at}ssm_dt.weight", inner, rank)
        self._floats(f"{at}ssm_dt.bias", inner)
        self._floats(f"{at}ssm_conv1d.weight", inner, 4)
        self._floats(f"{at}ssm_conv1d.bias", inner)
        self._ones(f"{at}ssm_a", inner, state, value=-1.0)
        self._ones(f"{at}ssm_d", inner)
        self._matrix(f"{at}ssm_out.weight", WIDTH, inner)

    def _matrix(self, name: str, *shape: int) -> None:
        values = self._dice.standard_normal(shape, np.float32) / np.sqrt(shape[-1])
        self._gguf.add_tensor(name, values.astype(np.float16))

    def _floats(self, name: str, *shape: int) -> None:
        self._gguf.add_tensor(name, self._dice.standard_normal(shape, np.float32) / 10)

    def _ones(self, name: str, *shape: int, value: float = 1.0) -> None:
        self._gguf.add_tensor(name, np.full(shape, value, np.float32))
