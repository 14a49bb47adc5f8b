"""Time for a compile, a mask and a token, and the forced tokens, over a real vocabulary."""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

from engines import ENGINES, GrammarEngine, Refused, compact

from twd.engine import library
from twd.engine.demo_model import packaged_model
from twd.engine.model import LoadedGguf, ModelLoadOptions

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "born": {"type": "integer", "minimum": 0, "maximum": 2100},
        "kind": {"enum": ["engineer", "mathematician", "poet"]},
        "works": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
        "address": {
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
            "required": ["street", "city"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "born", "kind", "works", "address"],
    "additionalProperties": False,
}
ADA = {
    "name": "Ada Lovelace",
    "born": 1815,
    "kind": "mathematician",
    "works": ["Notes on the Analytical Engine", "Letters"],
    "address": {"street": "St James's Square 12", "city": "London"},
}
CHILDREN = {"type": "array", "items": {"$ref": "#/$defs/node"}}
TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "number"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            },
            "required": ["value", "children"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
NODES = {
    "value": 1,
    "children": [{"value": 2.5, "children": []}, {"value": -3, "children": [{"value": 0, "children": []}]}],
}
JSON_GRAMMAR = r"""
root   ::= "{" space (pair ("," space pair)*)? "}"
pair   ::= string ":" space value
value  ::= string | number | "true" | "false" | "null" | list | root
list   ::= "[" space (value ("," space value)*)? "]"
string ::= "\"" ([^"\\\x00-\x1f] | "\\" [\x20-\x7e])* "\""
number ::= "-"? [0-9]+ ("." [0-9]+)?
space  ::= | " " | "\n" [ \t]{0,20}
"""
CASES: dict[str, tuple[str, str, Any]] = {
    "person, by schema": ("json", compact(PERSON), ADA),
    "tree, by schema": ("json", compact(TREE), NODES),
    "JSON, by GBNF": ("gbnf", JSON_GRAMMAR, ADA),
}


class Spans(NamedTuple):
    """Milliseconds of one text, and how many of its tokens were forced."""

    compile: list[float]
    mask: list[float]
    token: list[float]
    forced: list[float]
    foretold: int
    tokens: int


def main() -> None:
    """Print a table: a row for each engine and case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a GGUF with the vocabulary to use")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    library.start()
    with LoadedGguf.load(ModelLoadOptions(arguments.model or packaged_model(), vocab_only=True)) as model:
        print("| engine | grammar | compile ms | mask ms | slowest mask | token ms | forced ms | forced tokens |")
        print("|---|---|---|---|---|---|---|---|")
        for name, make in ENGINES.items():
            began = time.perf_counter()
            engine = make(model.vocab)
            ready = (time.perf_counter() - began) * 1e3
            for case, (kind, grammar, value) in CASES.items():
                try:
                    spans = measured(engine, kind, grammar, value, model.vocab, arguments.rounds)
                    print(row(f"{name} ({ready:.0f} ms to prepare)", case, spans), flush=True)
                except Refused as error:
                    print(f"| {name} | {case} | refused: {str(error)[:60]} |")


def measured(engine: GrammarEngine, kind: str, grammar: str, value: Any, vocab: Any, rounds: int) -> Spans:
    """Follow one text through freshly compiled grammars."""
    text = vocab.continued(json.dumps(value, ensure_ascii=False))
    spans = Spans([], [], [], [], 0, len(text))
    for _ in range(rounds):
        began = time.perf_counter()
        follower = engine.follow(kind, grammar)
        spans.compile.append(span(began))
        ahead: list[int] = []
        foretold = 0
        for token in text:
            spans.mask.append(timed(follower.mask))
            began = time.perf_counter()
            told = follower.forced()
            spans.forced.append(span(began))
            ahead = ahead or told
            foretold += bool(ahead) and ahead[0] == token
            ahead = ahead[1:] if ahead and ahead[0] == token else []
            began = time.perf_counter()
            if not follower.push(token):
                raise SystemExit(f"{vocab.piece(token)!r} is not taken")
            spans.token.append(span(began))
    return spans._replace(foretold=foretold)


def timed(work: Any) -> float:
    """Milliseconds of one call."""
    began = time.perf_counter()
    work()
    return span(began)


def span(began: float) -> float:
    """Milliseconds since then."""
    return (time.perf_counter() - began) * 1e3


def row(name: str, case: str, spans: Spans) -> str:
    """One row of the table."""
    mean = statistics.fmean
    return (
        f"| {name} | {case} | {statistics.median(spans.compile):.2f} | {mean(spans.mask):.3f} | {max(spans.mask):.2f} "
        f"| {mean(spans.token):.3f} | {mean(spans.forced):.3f} | {spans.foretold} of {spans.tokens} |"
    )


if __name__ == "__main__":
    main()
