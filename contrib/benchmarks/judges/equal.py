"""Is a gate that is not calibrated exact? The texts of `NAME+gate` beside those of the model itself.

python contrib/benchmarks/judges/equal.py --answers 500
"""

import argparse
from collections import Counter

from house import house
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
    gate = {"fleet": ["quick", "poor"], "economy": False, "audit": 0.0, "hold": 12, "cache_identical": False}
    with house({"big": options.judge, "quick": "q8_0", "poor": "q4_0"}, gate=gate) as one:
        for number, line in enumerate(prompts()[options.first : options.first + options.answers], options.first):
            how = {"seed": number, "temperature": 0.9 * (number % 2), "max_tokens": options.tokens}
            own = one.ask("big", line["messages"], stream=False, **how)
            judged = one.ask("big+gate", line["messages"], stream=number % 4 < 2, **how)
            verdict = judged.facts.get("verdict", "none")
            (equal if own.text == judged.text else unlike)[verdict] += 1
            if own.text != judged.text or judged.facts["approximate"]:
                print(f"{number} {judged.facts}: {own.text!r} became {judged.text!r}", flush=True)
    print(f"{sum(equal.values())} of {options.answers} texts equal; verdicts: {dict(equal)}, unlike: {dict(unlike)}")


if __name__ == "__main__":
    main()
