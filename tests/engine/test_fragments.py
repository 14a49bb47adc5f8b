"""Parts of texts that are remembered make the tokens that the whole text makes."""

from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from twd.engine.fragments import KEPT_CHARACTERS, Fragments, lone_strings
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.engine.vocab import Vocab

CONTROL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|end|>", "<|endoftext|>", "[a]", "[b]", "a]["]
OWN = ["\n\n", "\n", " b"]
PLAIN = ["▁", "a", "b", "▁a", "ab", "<", "|", ">", "[", "]", "x"]


def write_vocabulary(path: Path, name: str) -> Path:
    """A vocabulary of whole words with control tokens that stand in each other's way, and no weights."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_tokenizer_model("llama")
    kinds = gguf.TokenType
    tokens = [("<unk>", kinds.UNKNOWN), *((text, kinds.CONTROL) for text in CONTROL)]
    tokens += [(f"<0x{byte:02X}>", kinds.BYTE) for byte in range(256)]
    tokens += [*((text, kinds.USER_DEFINED) for text in OWN), *((text, kinds.NORMAL) for text in PLAIN)]
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_token_scores([-float(index) for index in range(len(tokens))])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(64)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tensor("token_embd.weight", np.zeros((len(tokens), 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module", params=["of sentences", "phi-3"])
def odd(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vocab]:
    """In the second one, as llama.cpp has it, some control tokens swallow the blanks behind them."""
    path = write_vocabulary(tmp_path_factory.mktemp("vocab") / "v.gguf", request.param)
    with LoadedGguf.load(ModelLoadOptions(path, vocab_only=True)) as model:
        yield model.vocab


def check(vocab: Vocab, words: list[str]) -> None:
    """Cut and remembered or whole: the same tokens, the first time and the second."""

    @examples(300)
    @given(st.lists(st.sampled_from(words) | st.text(max_size=4), max_size=12).map("".join))
    def equal(text: str) -> None:
        whole = vocab._tokenize(text, parse_special=True)
        for _ in range(2):
            assert vocab.tokenize(text, parse_special=True, add_bos=False) == whole

    equal()


def test_odd_vocabularies(odd: Vocab) -> None:
    check(odd, [*CONTROL, *OWN, *(word.replace("▁", " ") for word in PLAIN), "<|im", "<|", "|>", "</", "<unk>"])
    assert {"<s>", "<|endoftext|>"} <= odd._fragments._separators.keys()
    assert not {"a][", "[a]", "<unk>", "\n\n"} & odd._fragments._separators.keys()


def test_blanks_are_swallowed_where_the_model_wants_it(odd: Vocab) -> None:
    """Else the test before would not see those that must not be cut at."""
    ends = odd.special_tokens["<|end|>"]
    swallowed = odd.tokenize("<|end|>  ", parse_special=True, add_bos=False) == [ends]
    assert swallowed == ("<|end|>" not in odd._fragments._separators)


@pytest.mark.model
def test_a_real_vocabulary(q4: LoadedGguf) -> None:
    check(q4.vocab, ["<|im_start|>", "<|im_end|>", "user\n", "<|endoftext|>", " the", "\n\n", "<|im_", "1234", "é"])
    assert {"<|im_start|>", "<|im_end|>"} <= q4.vocab._fragments._separators.keys()


@given(st.sets(st.text("ab<", min_size=1, max_size=4), max_size=8), st.text("ab<", max_size=12))
def test_lone_strings_overlap_nothing(strings: set[str], text: str) -> None:
    spans = [
        (start, start + len(string), string)
        for string in strings
        for start in range(len(text))
        if text.startswith(string, start)
    ]
    lone = lone_strings(strings)
    assert lone <= strings
    for start, end, string in spans:
        if string in lone:
            others = [other for other in spans if other != (start, end, string)]
            assert all(after <= start or end <= before for before, after, _ in others)


def test_strings_that_others_know_nothing_of_are_lone() -> None:
    assert lone_strings({"<s>", "</s>", "[I]", "I"}) == {"<s>", "</s>"}
    assert lone_strings({"aba"}) == set()
    assert lone_strings([]) == set()


class Counting:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, text: str) -> list[int]:
        self.asked.append(text)
        return [ord(character) for character in text]


def test_what_was_said_before_is_not_tokenized_again() -> None:
    counting = Counting()
    fragments = Fragments({"|": 1000}, counting)
    assert fragments.tokens("ab|c") == [97, 98, 1000, 99]
    tokens = fragments.tokens("ab|c|d")
    assert tokens == [97, 98, 1000, 99, 1000, 100]
    tokens.append(7)
    assert fragments.tokens("ab|c|d|") == [97, 98, 1000, 99, 1000, 100, 1000], "nobody changes what is kept"
    assert counting.asked == ["ab", "c", "d"]


def test_what_was_not_asked_for_longest_is_forgotten_first() -> None:
    counting = Counting()
    fragments = Fragments({}, counting)
    size = KEPT_CHARACTERS // 8
    texts = [letter * size for letter in "abcdefgh"]
    for text in [*texts, texts[0], "i", "j" * (size - 1)]:
        fragments.tokens(text)
    counting.asked.clear()
    fragments.tokens(texts[0])
    assert counting.asked == []
    fragments.tokens(texts[1])
    assert counting.asked == [texts[1]]
    too_long = "k" * (size + 1)
    for _ in range(2):
        fragments.tokens(too_long)
    assert counting.asked[1:] == [too_long, too_long]


@given(st.lists(st.sampled_from(["a", " a", "ab", "x", '"', ": ", "<|end|>", "é"]), max_size=8))
def test_behind_other_text_no_blank_is_put_in_front(odd: Vocab, words: list[str]) -> None:
    text = "".join(words)
    assert b"".join(map(odd.piece, odd.continued(text))) == text.encode()
    assert text[:1] not in ("a", "b", "x") or odd.plain(text) != odd.continued(text), "or there is nothing to test here"
