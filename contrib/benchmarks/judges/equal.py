"""Is a gate that is not calibrated exact? The texts of `NAME+gate` beside those of the model itself.

python contrib/benchmarks/judges/equal.py --answers 500
"""

import argparse
from collections import Counter
from typing import Any

from house import ALWAYS_JUDGED, House, house
from prompts import prompts


def main() -> None:
    """Print how many texts are equal, by verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="the first prompt, to go on with a count")
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--judge", default="f32", help="kind of weights")
    options = parser.parse_args()
    equal: Counter[str] = Counter()
    unlike: Counter[str] = Counter()
    gate = ALWAYS_JUDGED | {"fleet": ["quick", "poor"], "hold": 12}
    with house({"big": options.judge, "quick": "q8_0", "poor": "q4_0"}, gate=gate) as one:
        try:
            for number, line in enumerate(prompts()[options.first : options.first + options.answers], options.first):
                compare(one, number, line["messages"], options.tokens, equal, unlike)
        finally:
            told = f"verdicts: {dict(equal)}, unlike: {dict(unlike)}"
            print(f"{equal.total()} of {equal.total() + unlike.total()} texts equal; {told}")


def compare(
    one: House, number: int, asked: list[dict[str, Any]], tokens: int, equal: Counter[str], unlike: Counter[str]
) -> None:
    """Ask both, and count."""
    how = {"seed": number, "temperature": 0.9 * (number % 2), "max_tokens": tokens}
    own = one.ask("big", asked, stream=False, **how)
    judged = one.ask("big+gate", asked, stream=number % 4 < 2, **how)
    same = own.text == judged.text and not judged.facts["approximate"]
    (equal if same else unlike)[judged.facts.get("verdict", "none")] += 1
    if not same:
        print(f"{number} {judged.facts}: {own.text!r} became {judged.text!r}", flush=True)


if __name__ == "__main__":
    main()
