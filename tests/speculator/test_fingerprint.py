"""`system_fingerprint`: a short token that changes with what may change the text."""

import re

import msgspec

from tests.edge.fake_speculator import FACTS
from twd.speculator.core.limits import fingerprint_of


def test_it_is_a_short_token_of_weights_vocabulary_and_settings() -> None:
    one = fingerprint_of(FACTS, "flash attention, K q8_0")
    assert re.fullmatch(r"fp_[0-9a-f]{10}", one)
    assert one == fingerprint_of(FACTS, "flash attention, K q8_0")
    others = [
        fingerprint_of(FACTS, "flash attention, K f16"),
        fingerprint_of(msgspec.structs.replace(FACTS, file="another.gguf"), "flash attention, K q8_0"),
        fingerprint_of(msgspec.structs.replace(FACTS, quantization="Q2_K"), "flash attention, K q8_0"),
        fingerprint_of(
            msgspec.structs.replace(FACTS, vocab=msgspec.structs.replace(FACTS.vocab, hash="0")),
            "flash attention, K q8_0",
        ),
    ]
    assert len({one, *others}) == 5
