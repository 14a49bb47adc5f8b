"""What drafts bring where the answer's form is given: JSON schemas, of which a grammar leaves much no choice.

    .venv/bin/python contrib/benchmarks/speculation/structured.py

Of each schema several questions are asked, each drafted and then plain, once, in two systems one after the other: one
without a draft model (what the schema demands, and n-grams), one with a draft model that knows the schema. A ratio is
that of an answer's drafted speed to its plain speed. The first answer of a schema stands for itself: how a model spells
the keys is known from then on.
"""

import argparse
import asyncio
import json
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from harness import MODEL, System, client_of, until, weights

from twd.bench.client import BenchClient, BenchRequest
from twd.bench.prompts import PROMPTS, BenchPrompt
from twd.bench.session import facts_of, find_speculator
from twd.process.cores import usable_cores
from twd.wire.job import ChatMessage, Grammar, GrammarKind, Speculation

PLAIN, DRAFTED = Speculation(enabled=False), Speculation()


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


TEXT, NUMBER = {"type": "string", "maxLength": 60}, {"type": "integer"}
PERSON = _object(first_name=TEXT, last_name=TEXT, email=TEXT, birth_year=NUMBER, newsletter={"type": "boolean"})
TICKET = _object(
    title=TEXT,
    severity={"enum": ["informational", "minor", "major", "critical"]},
    component={"enum": ["authentication", "billing", "notifications", "user interface"]},
    steps_to_reproduce={"type": "array", "items": TEXT, "minItems": 2, "maxItems": 4},
    affects_production={"type": "boolean"},
)
WEATHER = _object(
    name={"const": "get_weather_forecast"},
    arguments=_object(
        location=_object(city=TEXT, country_code={"type": "string", "pattern": "^[A-Z]{2}$"}),
        temperature_unit={"enum": ["celsius", "fahrenheit"]},
        number_of_days=NUMBER,
    ),
)
PEOPLE = {"type": "array", "items": PERSON, "minItems": 3, "maxItems": 3}
_SHOPS = ("book shop", "bakery", "bicycle repair shop", "library")
_PROBLEMS = (
    "Users cannot log in since this morning: the page stays blank after the password.",
    "The invoice of March shows the wrong tax, and customers complain.",
    "The button that sends a message is hidden behind the keyboard on small phones.",
    "Mails about new comments arrive a day late.",
)
_PLACES = ("Lisbon in the next three days", "Oslo tomorrow", "Naples in the coming week", "Dublin over the weekend")
REQUESTS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("person", PERSON, [f"Invent a customer of a {shop}." for shop in _SHOPS]),
    ("ticket", TICKET, [f"{problem} Write a report." for problem in _PROBLEMS]),
    ("call", WEATHER, [f"What will the weather be like in {place}?" for place in _PLACES]),
    ("people", PEOPLE, [f"Invent three customers of a {shop}." for shop in _SHOPS]),
]


@dataclass(frozen=True)
class Row:
    """One schema: the ratio of each answer, and whether all texts were equal."""

    ratios: list[float]
    equal: bool


async def compare(client: BenchClient, kind: str, grammar: Grammar, questions: list[str], max_tokens: int) -> Row:
    """The questions of one schema, each drafted and plain."""
    row = Row([], True)
    rates: list[float] = []
    whole = Counter[str]()
    for question in questions:
        prompt = BenchPrompt(kind, (ChatMessage(role="user", content=question),), grammar)
        drafted, plain = [
            await client.answer(MODEL, prompt, BenchRequest(how, max_tokens, ignore_eos=False))
            for how in (DRAFTED, PLAIN)
        ]
        rates.append(plain.rate)
        row = Row([*row.ratios, drafted.rate / plain.rate], row.equal and drafted.tokens == plain.tokens)
        whole += Counter({"tokens": len(drafted.tokens), "passes": drafted.stats.passes})
        whole += Counter({one.drafter.split(".")[0]: one.taken for one in drafted.stats.drafters})
    ratios = " ".join(f"{ratio:.2f}" for ratio in row.ratios)
    print(f"  {kind:<7} plain {median(rates):5.1f} tok/s, {ratios}x, {_spelled(whole)}", flush=True)
    return row


def _spelled(whole: Counter[str]) -> str:
    authors = [f"{count} by {name}" for name, count in sorted(whole.items()) if name not in ("tokens", "passes")]
    return f"{whole['tokens']} tokens in {whole['passes']} passes: {', '.join(authors)}"


async def run(drafter: str, args: argparse.Namespace) -> list[Row]:
    """All requests in a system with this drafter, or with none."""
    model = {"path": str(weights(args.target)), "ctx_size": 1024, "parallel": 2, "threads": args.threads}
    drafters = [{"path": str(weights(drafter)), "threads": args.threads}] if drafter else []
    home = Path(tempfile.mkdtemp(prefix="twd-structured-"))
    system = System(home, {"models": {str(MODEL): model}, "drafters": drafters})
    system.start()
    try:
        async with client_of(system) as client:

            async def attached() -> bool:
                return not drafter or bool(facts_of(await find_speculator(client, "")).drafters)

            await until(attached, "the drafter is attached")
            for how in (PLAIN, DRAFTED, DRAFTED):
                await client.answer(MODEL, PROMPTS[-1], BenchRequest(how, 32))
            print(f"{drafter} as drafter:" if drafter else "no draft model:", flush=True)
            return [
                await compare(client, kind, grammar_of(schema), questions, args.max_tokens)
                for kind, schema, questions in REQUESTS
            ]
    finally:
        system.stop()


def grammar_of(schema: dict[str, Any]) -> Grammar:
    """A schema as jobs carry it."""
    return Grammar(kind=GrammarKind.JSON_SCHEMA, text=json.dumps(schema))


async def main(args: argparse.Namespace) -> None:
    rows = {drafter: await run(drafter, args) for drafter in ("", args.drafter)}
    every = [row for one in rows.values() for row in one]
    print(f"schemas with equal texts: {sum(row.equal for row in every)} of {len(every)}")
    for drafter, one in rows.items():
        first, later = [row.ratios[0] for row in one], [ratio for row in one for ratio in row.ratios[1:]]
        told = f"first answers {median(first):.2f}x, later ones {median(later):.2f}x (least {min(later):.2f}x)"
        print(f"{drafter or 'no draft model'}: {told}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="f32", help="q4_0, q8_0, f16 or f32")
    parser.add_argument("--drafter", default="q8_0", help="q4_0, q8_0, f16 or f32")
    parser.add_argument("--max-tokens", type=int, default=160)
    parser.add_argument("--threads", type=int, default=usable_cores(), help="of the engine")
    asyncio.run(main(parser.parse_args()))
