"""What choosing a token costs, beside llama.cpp's own samplers on the same logits in the same run."""

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from llama_cpp import llama_cpp as llama

from twd.decoding.noise import Logits
from twd.decoding.sampler import TokenSampler
from twd.engine import library
from twd.engine.demo_model import packaged_model
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.structured_output.state import GrammarCache, GrammarState
from twd.wire.job import Grammar, GrammarKind, Sampling

SIZE = 151_936
ROUNDS = 300
ROW = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
JSON_TEXT = '{"name": "Ada", "born": 1815, "works": ["notes", {"on": "the engine", "pages": 66}], "alive": false}'
JSON_GRAMMAR = r"""
root   ::= "{" space (pair ("," space pair)*)? "}"
pair   ::= string ":" space value
value  ::= string | number | "true" | "false" | "null" | list | root
list   ::= "[" space (value ("," space value)*)? "]"
string ::= "\"" ([^"\\\x00-\x1f] | "\\" .)* "\""
number ::= "-"? [0-9]+ ("." [0-9]+)?
space  ::= | " " | "\n" [ \t]{0,20}
"""


class NoText:
    """A vocabulary without text, but with a line break in every 50th token."""

    size = SIZE
    end_tokens = frozenset([SIZE - 1])
    special_tokens: dict[str, int] = {}

    def piece(self, token: int) -> bytes:
        """The bytes of a token."""
        return b"\n" if token % 50 == 0 else b"w"


class Case(NamedTuple):
    """One way to sample, ours and llama.cpp's, and the limit for a token in ms."""

    name: str
    limit: float
    sampling: Sampling
    samplers: Callable[[], list[object]]


def drawn() -> list[object]:
    """llama.cpp's end of a chain that samples."""
    return [llama.llama_sampler_init_temp(0.8), llama.llama_sampler_init_dist(1)]


def penalties(repeat: float, liveness: float) -> object:
    """llama.cpp's penalties over the last 64 tokens."""
    return llama.llama_sampler_init_penalties(SIZE, 64, repeat, 0.0, liveness)


def dry() -> object:
    """llama.cpp's DRY over the last 64 tokens."""
    return llama.llama_sampler_init_dry(None, 0.8, 1.75, 2, 64, (ctypes.c_char_p * 0)(), 0)


def top_p() -> object:
    """llama.cpp's top_p."""
    return llama.llama_sampler_init_top_p(0.95, 0)


CASES = [
    Case("greedy", 0.3, Sampling(), lambda: [llama.llama_sampler_init_greedy()]),
    Case("sampled", 1.0, Sampling(temperature=0.8), drawn),
    Case("top_p", 1.0, Sampling(temperature=0.8, top_p=0.95), lambda: [top_p(), *drawn()]),
    Case(
        "top_k, top_p, min_p",
        1.0,
        Sampling(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05),
        lambda: [llama.llama_sampler_init_top_k(40), top_p(), llama.llama_sampler_init_min_p(0.05, 0), *drawn()],
    ),
    Case(
        "greedy, penalties",
        1.0,
        Sampling(repeat_penalty=1.1, presence_penalty=0.2),
        lambda: [penalties(1.1, 0.2), llama.llama_sampler_init_greedy()],
    ),
    Case(
        "sampled, penalties, DRY",
        1.0,
        Sampling(temperature=0.8, repeat_penalty=1.1, dry_multiplier=0.8),
        lambda: [penalties(1.1, 0.0), dry(), *drawn()],
    ),
]


class Rows:
    """Candidates as llama.cpp's samplers want them."""

    def __init__(self, size: int) -> None:
        self._rows = np.zeros(size, dtype=ROW)
        self._ids = np.arange(size)

    def apply(self, sampler: object, logits: Logits | float) -> None:
        """Fill in the logits and let the sampler work on them, as llama.cpp's own programs do for each token."""
        self._rows["id"], self._rows["logit"] = self._ids, logits
        data = self._rows.ctypes.data_as(ctypes.POINTER(llama.llama_token_data))
        array = llama.llama_token_data_array(data=data, size=len(self._rows), selected=-1, sorted=False)
        llama.llama_sampler_apply(sampler, ctypes.byref(array))


def main() -> None:
    """Print what picks cost, then what grammars cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a GGUF whose vocabulary the grammar is tried on")
    arguments = parser.parse_args()
    library.start()
    print_picks()
    with LoadedGguf.load(ModelLoadOptions(arguments.model or packaged_model(), vocab_only=True)) as model:
        print_grammars(model)


def print_picks() -> None:
    """A line for each case: median and 95th percentile, the limit, llama.cpp's median and how much longer it is."""
    logits = peaked_logits()
    history = np.random.default_rng(1).integers(SIZE, size=2000).tolist()
    rows = Rows(SIZE)
    print(f"{f'pick of {SIZE:,}':26}{'median':>9}{'p95':>9}{'limit':>9}{'llama.cpp':>11}{'ratio':>8}")
    for case in CASES:
        sampler, chain = TokenSampler(case.sampling, 7, NoText()), chain_of(case.samplers(), history)
        ours = spans_ms(partial(nth_pick, sampler, logits, history))
        theirs = spans_ms(partial(nth_of_theirs, rows, chain, logits))
        llama.llama_sampler_free(chain)
        median, slow, other = statistics.median(ours), statistics.quantiles(ours, n=20)[18], statistics.median(theirs)
        times = f"{median:7.3f}ms{slow:7.3f}ms{case.limit:7.1f}ms{other:9.3f}ms{other / median:7.1f}x"
        print(f"{case.name:26}{times}")


def peaked_logits() -> list[Logits]:
    """Like a model's: a broad bulk and a few tokens that stand out."""
    rng = np.random.default_rng(0)
    found = [(rng.standard_normal(SIZE) * 2.5).astype(np.float32) for _ in range(16)]
    for logits in found:
        logits[rng.integers(SIZE, size=20)] += np.linspace(4, 16, 20).astype(np.float32)
    return found


def nth_pick(sampler: TokenSampler, logits: list[Logits], history: list[int], index: int) -> object:
    """Ours, of one row among sixteen."""
    return sampler.pick(logits[index % 16], history)


def nth_of_theirs(rows: Rows, chain: object, logits: list[Logits], index: int) -> None:
    """Llama.cpp's, of the same."""
    rows.apply(chain, logits[index % 16])


def chain_of(samplers: list[object], history: list[int]) -> object:
    """A chain of llama.cpp's samplers that has seen the history."""
    chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
    for sampler in samplers:
        llama.llama_sampler_chain_add(chain, sampler)
    for token in history[-64:]:
        llama.llama_sampler_accept(chain, token)
    return chain


def spans_ms(work: Callable[[int], object]) -> list[float]:
    """How long each of many runs took."""
    return [span_ms(partial(work, index)) for index in range(ROUNDS)]


def span_ms(work: Callable[[], object]) -> float:
    """How long it took."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def print_grammars(model: LoadedGguf) -> None:
    """The check of one token and the mask of all along a JSON text, beside llama.cpp's grammar sampler."""
    grammars = GrammarCache(model.vocab)
    print(f"\ngrammar over {model.vocab.size:,} tokens")
    print(f"  once for the vocabulary{span_ms(grammars.prepare):9.3f} ms")
    grammar = Grammar(kind=GrammarKind.GBNF, text=JSON_GRAMMAR)
    print(f"  once for the grammar   {span_ms(lambda: grammars.compiled(grammar)):9.3f} ms")
    walk, rows = GrammarState(grammars.compiled(grammar)), Rows(model.vocab.size)
    sampler = llama.llama_sampler_init_grammar(
        llama.llama_model_get_vocab(model.handle), JSON_GRAMMAR.encode(), b"root"
    )
    text = model.vocab.tokenize(JSON_TEXT, parse_special=False, add_bos=False)
    spans: dict[str, list[float]] = {"one token": [], "mask": [], "mask, known state": [], "llama.cpp's mask": []}
    for length, token in enumerate(text):
        history = text[:length]
        spans["one token"].append(span_ms(partial(walk.allows, history, token)))
        spans["mask"].append(span_ms(partial(walk.allowed, history)))
        spans["mask, known state"].append(span_ms(partial(walk.allowed, history)))
        spans["llama.cpp's mask"].append(span_ms(lambda: rows.apply(sampler, 0.0)))
        llama.llama_sampler_accept(sampler, token)
    llama.llama_sampler_free(sampler)
    for name, values in spans.items():
        print(f"  {name:22}{statistics.fmean(values):10.3f} ms mean{max(values):10.3f} ms at most")
    ratio = statistics.fmean(spans["llama.cpp's mask"]) / statistics.fmean(spans["mask"])
    print(f"  llama.cpp's masks of this text take {ratio:.1f}x as long")


if __name__ == "__main__":
    main()
