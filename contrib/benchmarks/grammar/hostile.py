"""Hostile and demanding grammars: each in a process of its own, with a limit of time and memory."""

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from engines import ENGINES, Bytes, Refused

from tests.structured_output.test_state import DEMANDING, HOSTILE

LIMIT_S = 10.0
MEMORY = 4 << 30
STEPS = 40


def doubling(depth: int) -> dict[str, Any]:
    """References that double with each level."""
    levels = {f"l{i}": {"type": "array", "prefixItems": [{"$ref": f"#/$defs/l{i + 1}"}] * 2} for i in range(depth)}
    return {"$ref": "#/$defs/l0", "$defs": {**levels, f"l{depth}": {"type": "null"}}}


def nested(depth: int) -> dict[str, Any]:
    """Arrays in arrays."""
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema, "minItems": 1}
    return schema


SCHEMAS: dict[str, Any] = {
    "doubling references": doubling(40),
    "nested 400 deep": nested(400),
    "a pattern that repeats itself": {"type": "string", "pattern": "^((a+)+)+$"},
    "a pattern with huge counts": {"type": "string", "pattern": "^(a{1000}){1000}$"},
    "a pattern that must not match": {"type": "string", "pattern": "^(?!a).*$"},
    "a million letters": {"type": "string", "minLength": 1_000_000},
    "a million items": {"type": "array", "minItems": 1_000_000},
    "20,000 values": {"enum": [f"value{i}" for i in range(20_000)]},
    "2,000 optional properties": {"type": "object", "properties": {f"p{i}": {"type": "null"} for i in range(2000)}},
    "200 parts": {"allOf": [{"properties": {f"p{i}": {"type": "integer"}}} for i in range(200)]},
    "parts of many alternatives": {
        "allOf": [{"anyOf": [{"const": i}, {"const": j}]} for i in range(12) for j in (1, 2)]
    },
    "itself": {"$ref": "#"},
    "nothing": False,
    "a range without integers": {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2},
    "conditions": {"if": {"required": ["a"]}, "then": {"required": ["b"]}, "not": {"required": ["c"]}},
    "unique items": {"type": "array", "uniqueItems": True, "items": {"type": "integer"}},
    "not JSON": "{",
    "a remote reference": {"$ref": "https://example.com/schema.json"},
}


def cases() -> Iterator[tuple[str, str, str]]:
    """Name, kind and text of every case."""
    for name, grammar in {**HOSTILE, **DEMANDING}.items():
        yield name, "gbnf", grammar
    for name, schema in SCHEMAS.items():
        yield f"schema: {name}", "json", schema if isinstance(schema, str) else json.dumps(schema)


def main() -> None:
    """Print a table: a row for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("ENGINE", "CASE"), help="run one case here")
    parser.add_argument("--engines", nargs="+", default=["twd", "llguidance", "xgrammar"], choices=ENGINES)
    arguments = parser.parse_args()
    if arguments.one:
        print(tried(*arguments.one))
        return
    print(f"| case | {' | '.join(arguments.engines)} |")
    print("|---" * (len(arguments.engines) + 1) + "|")
    for name, _, _ in cases():
        print(f"| {name} | {' | '.join(alone(engine, name) for engine in arguments.engines)} |", flush=True)


def alone(engine: str, name: str) -> str:
    """The outcome of one case in a process of its own."""
    command = [sys.executable, __file__, "--one", engine, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S + 5, check=False)
    except subprocess.TimeoutExpired:
        return f"**over {LIMIT_S:g} s**"
    if done.returncode < 0:
        return f"**killed by signal {-done.returncode}**"
    return done.stdout.strip() or f"**{(done.stderr.strip().splitlines() or ['ended'])[-1][:60]}**"


def tried(engine_name: str, name: str) -> str:
    """Compile one case and follow a random text of it for some bytes."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    kind, text = next((kind, text) for case, kind, text in cases() if case == name)
    engine = ENGINES[engine_name](Bytes())
    began = time.perf_counter()
    try:
        follower = engine.follow(kind, text)
        compiled = time.perf_counter()
        steps = walked(follower)
    except Refused:
        return f"refused, {milliseconds(time.perf_counter() - began)}"
    except Exception as error:  # noqa: BLE001 - any error behind the compile is told
        return f"fails late ({type(error).__name__}), {milliseconds(time.perf_counter() - began)}"
    slow = milliseconds(time.perf_counter() - compiled)
    return f"{milliseconds(compiled - began)} and {slow}" if steps else "**taken, but nothing may follow**"


def walked(follower: Any) -> int:
    """How many tokens of a random text were found, each after a mask."""
    rng = random.Random(1)
    for step in range(STEPS):
        follower.mask()
        if not any(follower.push(token) for token in rng.sample(range(256), 256)):
            return step or int(follower.ends())
    return STEPS


def milliseconds(seconds: float) -> str:
    """A time for the table."""
    return f"{seconds * 1e3:.0f} ms"


if __name__ == "__main__":
    main()
