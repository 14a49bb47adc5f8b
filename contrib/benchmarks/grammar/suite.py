"""JSON Schema's official test suite: what each engine accepts, and what it should."""

import argparse
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engines import ENGINES, Bytes, GrammarEngine, Refused, compact, takes

ORDERS_MAX = 24


def main() -> None:
    """Print a table: a row for each engine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the suite's tests/draft2020-12")
    parser.add_argument("--engines", nargs="+", default=["twd", "llguidance", "xgrammar"], choices=ENGINES)
    parser.add_argument("--wrong", action="store_true", help="list the invalid values that were accepted")
    arguments = parser.parse_args()
    groups = [group for path in sorted(arguments.folder.glob("*.json")) for group in loaded(path)]
    print(f"{len(groups)} schemas, {sum(len(group['tests']) for group in groups)} values")
    print("| engine | schemas refused | valid taken | valid not taken | invalid not taken | invalid taken |")
    print("|---|---|---|---|---|---|")
    for name in arguments.engines:
        counts = Counter[str]()
        for group in groups:
            counts += judged(ENGINES[name](Bytes()), group, arguments.wrong)
        columns = ("refused", "valid taken", "valid left", "invalid left", "invalid taken")
        print(f"| {name} | " + " | ".join(str(counts[column]) for column in columns) + " |", flush=True)


def loaded(path: Path) -> Iterator[dict[str, Any]]:
    """The groups of one file, with the file's name."""
    for group in json.loads(path.read_text("utf-8")):
        yield {**group, "file": path.stem}


def judged(engine: GrammarEngine, group: dict[str, Any], told: bool) -> Counter[str]:
    """What an engine says of the values of one schema."""
    schema = compact(group["schema"])
    counts = Counter[str]()
    for test in group["tests"]:
        try:
            taken = any(takes(engine.follow("json", schema), text.encode()) for text in spellings(test["data"]))
        except Refused:
            return Counter(refused=1)
        counts[f"{'valid' if test['valid'] else 'invalid'} {'taken' if taken else 'left'}"] += 1
        if told and taken and not test["valid"]:
            print(f"  {group['file']}: {group['description']}: {compact(test['data'])}")
    return counts


def spellings(value: Any) -> Iterator[str]:
    """A value as JSON, its properties in several orders, with and without blanks."""
    for ordered in itertools.islice(orders(value), ORDERS_MAX):
        yield json.dumps(ordered, ensure_ascii=False)
        yield json.dumps(ordered, ensure_ascii=False, separators=(",", ":"))


def orders(value: Any) -> Iterator[Any]:
    """The value with its properties in every order."""
    match value:
        case dict():
            for names in itertools.permutations(value):
                for parts in itertools.product(*(list(itertools.islice(orders(value[name]), 4)) for name in names)):
                    yield dict(zip(names, parts, strict=True))
        case list():
            for parts in itertools.product(*(list(itertools.islice(orders(item), 4)) for item in value)):
                yield list(parts)
        case _:
            yield value


if __name__ == "__main__":
    main()
