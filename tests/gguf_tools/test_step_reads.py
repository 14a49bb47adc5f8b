"""What a token reads: kinds of weights by their share, experts by how many it is sent to, and the head."""

from dataclasses import replace

import pytest

from twd.engine.demo_model import packaged_model
from twd.gguf_tools.constants import GGMLQuantizationType as Kind
from twd.gguf_tools.header import TensorInfo
from twd.gguf_tools.inspect import GgufInfo, inspect
from twd.gguf_tools.step_reads import step_reads


@pytest.fixture(scope="module")
def real() -> GgufInfo:
    return inspect(packaged_model())


def tensor(name: str, kind: Kind, size: int) -> TensorInfo:
    return TensorInfo(name, (32, 32), kind, 0, size)


@pytest.mark.model
def test_shares_are_of_the_layers_and_the_head_may_be_the_embeddings(real: GgufInfo) -> None:
    reads = step_reads(real)
    assert reads.layers == real.layers
    assert sum(share for _, share in reads.kinds) == pytest.approx(1.0)
    embedding = next(one for one in real.tensors if one.name == "token_embd.weight")
    assert (reads.head_bytes >= embedding.size_bytes, reads.head_kind) == (True, embedding.kind.name)


@pytest.mark.model
def test_of_experts_only_those_are_read_that_are_used(real: GgufInfo) -> None:
    tensors = [
        tensor("blk.0.attn_q.weight", Kind.Q8_0, 400), tensor("blk.0.ffn_up_exps.weight", Kind.Q4_K, 600),
        tensor("token_embd.weight", Kind.Q4_0, 50), tensor("output.weight", Kind.Q6_K, 70),
    ]  # fmt: skip
    name = real.architecture
    used: dict[str, int] = {f"{name}.expert_count": 8, f"{name}.expert_used_count": 2}
    mixture = replace(real, layers=1, layer_bytes=[1000], tensors=tensors, metadata={**real.metadata, **used})
    reads = step_reads(mixture)
    assert dict(reads.kinds) == pytest.approx({"Q8_0": 0.4, "Q4_K": 0.15})
    assert (reads.head_bytes, reads.head_kind) == (70, "Q6_K")
    assert dict(step_reads(replace(mixture, metadata=real.metadata)).kinds) == pytest.approx({"Q8_0": 0.4, "Q4_K": 0.6})
