"""Tiny random models that keep more, or less, than cells for each token."""

from pathlib import Path

from tests.engine.tiny_models import TinyWriter

WIDTH, HEADS, INNER = 64, 2, 128
_FEED = 96


def write_lfm2(path: Path) -> Path:
    """Attention and short convolutions in turn; llama.cpp keeps snapshots of what the convolutions remember."""
    writer = _writer(path, "lfm2", layers=2, norm="token_embd_norm.weight")
    writer.gguf.add_head_count_kv([HEADS, 0])
    writer.gguf.add_shortconv_l_cache(3)
    _attention(writer, 0)
    head = WIDTH // HEADS
    writer.ones("blk.0.attn_q_norm.weight", head)
    writer.ones("blk.0.attn_k_norm.weight", head)
    writer.random("blk.1.shortconv.in_proj.weight", 3 * WIDTH, WIDTH)
    writer.random("blk.1.shortconv.conv.weight", WIDTH, 3)
    writer.random("blk.1.shortconv.out_proj.weight", WIDTH, WIDTH)
    writer.save()
    return path


def write_jamba(path: Path) -> Path:
    """Attention and a state space in turn; our build keeps snapshots of its state."""
    state, rank, kernel = 16, 8, 4
    writer = _writer(path, "jamba", layers=2)
    writer.gguf.add_head_count_kv([HEADS, 0])
    writer.gguf.add_ssm_conv_kernel(kernel)
    writer.gguf.add_ssm_inner_size(INNER)
    writer.gguf.add_ssm_state_size(state)
    writer.gguf.add_ssm_time_step_rank(rank)
    _attention(writer, 0)
    for name, size in (("dt", rank), ("b", state), ("c", state)):
        writer.ones(f"blk.1.ssm_{name}_norm.weight", size)
    writer.random("blk.1.ssm_in.weight", 2 * INNER, WIDTH)
    writer.random("blk.1.ssm_x.weight", rank + 2 * state, INNER)
    writer.random("blk.1.ssm_dt.weight", INNER, rank)
    writer.random("blk.1.ssm_dt.bias", INNER, scale=0.1)
    writer.random("blk.1.ssm_conv1d.weight", INNER, kernel)
    writer.random("blk.1.ssm_conv1d.bias", INNER, scale=0.1)
    writer.ones("blk.1.ssm_a", INNER, state, value=-1.0)
    writer.ones("blk.1.ssm_d", INNER)
    writer.random("blk.1.ssm_out.weight", WIDTH, INNER)
    writer.save()
    return path


def write_gemma3(path: Path, window: int = 32) -> Path:
    """Attention alone, that looks back no farther than a window in the first layer."""
    writer = _writer(path, "gemma3", layers=2)
    writer.gguf.add_head_count_kv(HEADS)
    writer.gguf.add_sliding_window(window)
    head = WIDTH // HEADS
    for layer in range(2):
        _attention(writer, layer)
        writer.ones(f"blk.{layer}.attn_q_norm.weight", head)
        writer.ones(f"blk.{layer}.attn_k_norm.weight", head)
        writer.ones(f"blk.{layer}.post_attention_norm.weight", WIDTH)
        writer.ones(f"blk.{layer}.post_ffw_norm.weight", WIDTH)
    writer.save()
    return path


def _writer(path: Path, architecture: str, layers: int, norm: str = "output_norm.weight") -> TinyWriter:
    writer = TinyWriter(path, architecture, layers, WIDTH, norm=norm)
    writer.gguf.add_feed_forward_length(_FEED)
    writer.gguf.add_head_count(HEADS)
    writer.gguf.add_key_length(WIDTH // HEADS)
    writer.gguf.add_value_length(WIDTH // HEADS)
    writer.gguf.add_rope_freq_base(10000.0)
    for layer in range(layers):
        writer.ones(f"blk.{layer}.attn_norm.weight", WIDTH)
        writer.ones(f"blk.{layer}.ffn_norm.weight", WIDTH)
        writer.random(f"blk.{layer}.ffn_gate.weight", _FEED, WIDTH)
        writer.random(f"blk.{layer}.ffn_up.weight", _FEED, WIDTH)
        writer.random(f"blk.{layer}.ffn_down.weight", WIDTH, _FEED)
    return writer


def _attention(writer: TinyWriter, layer: int) -> None:
    for part in ("q", "k", "v", "output"):
        writer.random(f"blk.{layer}.attn_{part}.weight", WIDTH, WIDTH)
