"""How many passes the target makes where three drafters vote, beside exact speculation with the same three; how many
of the agreed tokens are not its own.

    python contrib/benchmarks/judges/consensus.py --policy majority
"""

import argparse
from collections.abc import Sequence
from typing import Any

from house import Answer, House, house
from prompts import prompts

from twd.gate.calibration.binomial import interval

VOTERS = ("q8_0", "q4_0", "q2_k")


def passes(answers: Sequence[Answer]) -> float:
    """Passes for each token."""
    made = sum(int(one.usage["completion_tokens"]) for one in answers)
    return sum(int(one.facts["passes"]) for one in answers) / made


def kept(answers: Sequence[Answer]) -> int:
    """Tokens that drafters agreed on."""
    whys = [str(one.facts.get("why", "")) for one in answers]
    return sum(int(why.split("agreed on ")[1].split()[0]) for why in whys if "agreed on " in why)


def streams(one: House, model: str, lines: Sequence[dict[str, Any]], more: dict[str, Any]) -> list[Answer]:
    """The answers to all prompts, streamed."""
    given = {"stream_options": {"include_usage": True}} | more
    return [one.ask(model, line["messages"], stream=True, seed=n, **given) for n, line in enumerate(lines)]


def main() -> None:
    """Print the figures of one policy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", default="majority", choices=["strict", "majority", "any_disagree"])
    parser.add_argument("--answers", type=int, default=24)
    parser.add_argument("--first", type=int, default=0, help="the first prompt")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--judge", default="f32", help="kind of weights")
    parser.add_argument("--ring", type=int, default=0, help="the target over so many stages, 20 ms from each other")
    parser.add_argument("--window", type=int, default=0, help="drafts in each window; 0: what pays")
    options = parser.parse_args()
    lines = prompts()[options.first :]
    votes = {"policy": options.policy, "max_error": 0.9, "audit": 1.0}
    up = ("--ring", str(options.ring), "--link-rtt", "20") if options.ring else ()
    more: dict[str, Any] = {"max_tokens": options.tokens}
    more |= {"twd": {"speculation": options.window}} if options.window else {}
    with house({"big": options.judge}, VOTERS, up, consensus=votes) as one:
        streams(one, "big", lines[-2:], more)  # drafters are known after that
        plain = streams(one, "big", lines[: options.answers], more)
        voted = streams(one, "big+consensus", lines[: options.answers], more)
        agreed, wrong = kept(voted), sum(answer.facts.get("unlike") or 0 for answer in voted)
        low, high = interval(wrong, agreed) if agreed else (0.0, 1.0)
        print(
            f"{options.policy}: {passes(voted):.3f} passes a token, exact speculation {passes(plain):.3f}: "
            f"{passes(voted) / passes(plain):.2f}; {agreed} of "
            f"{sum(answer.usage['completion_tokens'] for answer in voted)} tokens agreed on, {wrong} of them not the "
            f"target's own ({low:.1%} to {high:.1%}); seconds {sum(a.whole_s for a in voted):.1f} beside "
            f"{sum(a.whole_s for a in plain):.1f}"
        )


if __name__ == "__main__":
    main()
