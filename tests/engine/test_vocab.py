"""Text to tokens and back on a real vocabulary; what a model without one answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from twd.engine.model import LoadedGguf
from twd.wire.failures import FailureCode, TwdError


@pytest.mark.model
class TestReal:
    def test_control_tokens_come_only_from_trusted_text(self, q4: LoadedGguf) -> None:
        end = q4.vocab.special_tokens["<|im_end|>"]
        assert end in q4.vocab.tokenize("a<|im_end|>", parse_special=True, add_bos=False)
        assert end not in q4.vocab.tokenize("a<|im_end|>", parse_special=False, add_bos=False)

    def test_control_tokens_are_invisible_in_text(self, q4: LoadedGguf) -> None:
        end = q4.vocab.special_tokens["<|im_end|>"]
        assert q4.vocab.piece(end) == b""
        assert q4.vocab.special_text(end) == "<|im_end|>"

    def test_end_tokens_hold_the_end_of_a_turn(self, q4: LoadedGguf) -> None:
        assert q4.vocab.special_tokens["<|im_end|>"] in q4.vocab.end_tokens
        assert q4.vocab.eos in q4.vocab.end_tokens

    def test_any_text_survives(self, q4: LoadedGguf) -> None:
        @examples(200)
        @given(
            st.text(
                alphabet=st.characters(max_codepoint=0x1FFFF, exclude_categories=["Cs", "Cc", "Cn", "Co"]), max_size=40
            )
        )
        def survives(text: str) -> None:
            tokens = q4.vocab.tokenize(text, parse_special=False, add_bos=False)
            assert b"".join(map(q4.vocab.piece, tokens)) == text.encode()

        survives()

    def test_broken_text_is_replaced_not_refused(self, q4: LoadedGguf) -> None:
        assert q4.vocab.text(q4.vocab.tokenize("a\ud800b", parse_special=False, add_bos=False)) == "a?b"

    def test_tokens_outside_the_vocabulary_have_no_text(self, q4: LoadedGguf) -> None:
        assert q4.vocab.piece(-1) == q4.vocab.piece(q4.vocab.size) == b""

    def test_fingerprints_are_equal_for_equal_vocabularies(self, q4: LoadedGguf, f16: LoadedGguf) -> None:
        assert q4.vocab.fingerprint() == f16.vocab.fingerprint()
        assert q4.vocab.fingerprint().tokens == 49152
        assert q4.vocab.fingerprint().template_hash


def test_fingerprints_differ_for_other_vocabularies(tiny: LoadedGguf) -> None:
    fingerprint = tiny.vocab.fingerprint()
    assert (fingerprint.kind, fingerprint.tokens, fingerprint.architecture) == ("none", 64, "llama")


def test_a_model_without_tokenizer_refuses_text_and_nothing_else(tiny: LoadedGguf) -> None:
    with pytest.raises(TwdError) as caught:
        tiny.vocab.tokenize("hello", parse_special=False, add_bos=False)
    assert caught.value.code is FailureCode.UNSUPPORTED
    assert tiny.vocab.piece(3) == b""
    assert tiny.vocab.end_tokens == frozenset()
    assert tiny.vocab.special_tokens == {}
