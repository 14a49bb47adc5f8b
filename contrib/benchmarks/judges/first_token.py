"""When the first token of an answer comes, with `gate.hold` of 48 tokens and with the whole answer.

python contrib/benchmarks/judges/first_token.py
"""

import argparse
import statistics

from house import ALWAYS_JUDGED, House, house

SUBJECTS = ("the sea", "an old clock", "a long bridge", "how bread is made", "the night train", "a garden in spring")


def first_s(one: House, tokens: int, answers: int) -> list[float]:
    """The seconds to the first token of each answer."""
    found = []
    for subject in SUBJECTS[:answers]:
        messages = [{"role": "user", "content": f"Write a long story about {subject}."}]
        answer = one.ask("big+gate", messages, stream=True, max_tokens=tokens, ignore_eos=True)
        found.append(answer.first_s)
        print(f"  {answer.facts['verdict']:8} {answer.first_s:.2f} s, whole {answer.whole_s:.2f} s", flush=True)
    return found


def main() -> None:
    """Print both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=len(SUBJECTS))
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--judge", default="f32", help="kind of weights")
    parser.add_argument("--member", default="q8_0", help="kind of weights")
    options = parser.parse_args()
    medians: dict[object, float] = {}
    for hold in (48, "answer"):
        print(f"hold {hold}")
        gate = ALWAYS_JUDGED | {"fleet": ["quick"], "hold": hold}
        with house({"big": options.judge, "quick": options.member}, gate=gate) as one:
            medians[hold] = statistics.median(first_s(one, options.tokens, options.answers))
    ratio = medians[48] / medians["answer"]
    print(f"first token: {medians[48]:.2f} s with hold 48, {medians['answer']:.2f} s with hold answer: {ratio:.2f}")


if __name__ == "__main__":
    main()
