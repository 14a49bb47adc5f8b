"""Are answers that are not streamed exact where drafters vote? The texts of `NAME+consensus` beside those of the model
without drafts.

python contrib/benchmarks/judges/unstreamed.py --answers 300
"""

import argparse
import asyncio
from collections import Counter
from typing import Any

from consensus import VOTERS
from house import Answer, House, house
from prompts import prompts

from twd.cli.common.context import CliContext
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S
from twd.wire.leases.others import RacerFacts
from twd.wire.service import read_lease, told_by


async def agreed(here: House) -> int:
    """On how many tokens drafters agreed, as the racer counts."""
    context = CliContext(str(here.file), here.environment)
    async with context.bus("admin") as bus:
        registry = await bus.leases(LEASE_BUCKET, LEASE_TTL_S)
        leases = [read_lease(entry.value, entry.key) for entry in await registry.entries()]
    return sum(facts.agreed for _, facts in told_by(leases, RacerFacts))


def votes(answer: Answer, what: str) -> int:
    """Agreed tokens that the target checked or accepted."""
    return sum(int(one[what]) for one in answer.facts["drafters"] if one["drafter"] == "consensus")


def main() -> None:
    """Print how many texts are equal, greedy and sampled, and what became of the votes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", default="majority", choices=["strict", "majority", "any_disagree"])
    parser.add_argument("--answers", type=int, default=300)
    parser.add_argument("--first", type=int, default=0, help="the first prompt, to go on with a count")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--judge", default="f32", help="kind of weights")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    with house({"big": options.judge}, VOTERS, consensus={"policy": options.policy}) as one:
        try:
            for number, line in enumerate(prompts()[options.first : options.first + options.answers], options.first):
                compare(one, number, line["messages"], options.tokens, counts)
        finally:
            print(
                f"{counts['equal']} of {counts['greedy'] + counts['sampled']} texts equal ({counts['greedy']} greedy, "
                f"{counts['sampled']} sampled), {counts['tokens']} tokens; of {asyncio.run(agreed(one))} agreed tokens "
                f"{counts['checked']} were checked and {counts['taken']} accepted"
            )


def compare(one: House, number: int, asked: list[dict[str, Any]], tokens: int, counts: Counter[str]) -> None:
    """Ask both, and count."""
    how = {"seed": number, "temperature": 0.9 * (number % 2), "max_tokens": tokens}
    own = one.ask("big", asked, stream=False, twd={"mode": "direct"}, **how)
    voted = one.ask("big+consensus", asked, stream=False, **how)
    same = own.text == voted.text and not voted.facts["approximate"]
    counts[("greedy", "sampled")[number % 2]] += 1
    counts.update(equal=same, checked=votes(voted, "checked"), taken=votes(voted, "taken"))
    counts["tokens"] += voted.usage["completion_tokens"]
    if not same:
        print(f"{number} {voted.facts}: {own.text!r} became {voted.text!r}", flush=True)


if __name__ == "__main__":
    main()
