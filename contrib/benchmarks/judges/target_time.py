"""The target's time for a request to a gate, beside exact speculation with the same weights, at a given pass rate.

    python contrib/benchmarks/judges/target_time.py --rate 0.9

First each prompt is answered by the member and scored, to find the tolerance at which so many answers pass. Then each
prompt is asked twice, of the model itself and of the gate: in turn, and far from each other, as a prompt that was just
read is not read again.
"""

import argparse
import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from house import ALWAYS_JUDGED, House, house
from prompts import prompts

from twd.cli.common.context import CliContext
from twd.gate.asking import Asker, Told
from twd.gate.calibration import profile
from twd.gate.calibration.profile import Conditions, Profile
from twd.gate.verdict import statistic_of
from twd.kit.clock import SystemClock
from twd.kit.ids import Ids
from twd.kit.service import Effects, ServiceContext
from twd.wire.base import JobId
from twd.wire.job import ChatMessage, FinishReason, Judge, Prompt, Sampling, Speculation
from twd.wire.judging import AnswerJudged
from twd.wire.leases.base import ServerFacts
from twd.wire.service import told_by

SAMPLING: Final = Sampling(seed=0)
RELOAD_S: Final = 4.5
"""A gate reads its profiles again every two seconds."""


class Listener(Asker):
    """Asks, and hears what each judged answer took."""

    reads = (*Asker.reads, AnswerJudged)

    def __init__(self, ctx: ServiceContext) -> None:
        super().__init__(ctx)
        self.judged: dict[JobId, AnswerJudged] = {}

    def on_answer_judged(self, event: AnswerJudged) -> Effects:
        """What became of one request."""
        self.judged[event.job] = event
        return None

    async def cost(self, told: Told) -> AnswerJudged:
        """What an answer took; the gate tells it right behind the answer."""
        assert told.finished is not None
        async with asyncio.timeout(10):
            while told.finished.job not in self.judged:  # noqa: ASYNC110 - an event of another process
                await asyncio.sleep(0.01)
        return self.judged[told.finished.job]


async def gap_of(one: Listener, prompt: Prompt, tokens: int) -> float:
    """The mean gap of the member's answer."""
    answer = await one.run("quick", prompt, SAMPLING, tokens)
    ends = answer.finished is not None and answer.finished.reason is FinishReason.STOP
    plain = Speculation(enabled=False)
    judge = Judge(text=answer.text, ends=ends)
    scored = await one.run("big", prompt, SAMPLING, tokens, judge=judge, speculation=plain)
    return statistic_of("mean", scored.gaps)


async def plant(one: Listener, here: House, gaps: Sequence[float], rate: float) -> None:
    """Write a profile with which this share of the answers passes."""
    tolerance = sorted(gaps)[max(0, round(rate * len(gaps)) - 1)]
    leases = {str(facts.model): facts for _, facts in told_by(await one.leases(), ServerFacts) if facts.model}
    made = Profile(
        conditions=Conditions(
            judge="big",
            member="quick",
            judge_is=profile.identity(leases["big"]),
            member_is=profile.identity(leases["quick"]),
            sampling=profile.sampling_hash(SAMPLING),
            hold="answer",
        ),
        statistic="mean",
        tolerance=tolerance + 1e-9,
        max_error=0.9,
        confidence=0.95,
        passes=100,
        errors=0,
        bound=0.5,
        prompts="planted for a measurement",
    )
    profile.write(here.home, made)
    await asyncio.sleep(RELOAD_S)


async def measure(here: House, options: argparse.Namespace) -> None:
    """Print the ratio of one pass rate."""
    asked = [Prompt(messages=[ChatMessage(**turn) for turn in line["messages"]]) for line in lines(options)]
    context = CliContext(str(here.file), here.environment)
    async with context.bus("admin") as bus:
        one = Listener(ServiceContext(bus=bus, node=context.node, clock=SystemClock(), ids=Ids()))
        await one.start()
        gaps = [await gap_of(one, prompt, options.tokens) for prompt in asked]
        if options.rate:
            await plant(one, here, gaps, options.rate)
        exact_ms = gate_ms = 0.0
        verdicts: Counter[str] = Counter()
        for _ in range(options.rounds):
            for prompt, other in zip(asked, asked[len(asked) // 2 :] + asked, strict=False):
                exact_ms += (await one.run("big", prompt, SAMPLING, options.tokens)).ms
                told = await one.cost(await one.run("big+gate", other, SAMPLING, options.tokens))
                gate_ms += told.cost.target_ms
                verdicts[told.judged.verdict.value] += 1
        await one.stop("done")
    count = options.rounds * len(asked)
    print(
        f"{options.judge} by {options.member}, rate {options.rate:.0%}{' with economy' if options.economy else ''}: "
        f"{gate_ms / count:.0f} ms beside {exact_ms / count:.0f} ms: {gate_ms / exact_ms:.2f}; {dict(verdicts)}"
    )


def lines(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The prompts of this run."""
    return prompts()[options.first : options.first + options.answers]


def main() -> None:
    """Start an installation and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=0.9, help="share of answers that pass; 0: nothing is calibrated")
    parser.add_argument("--answers", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=1, help="how often each prompt is asked")
    parser.add_argument("--first", type=int, default=0, help="the first prompt")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--judge", default="f32", help="kind of weights")
    parser.add_argument("--member", default="q8_0", help="kind of weights")
    parser.add_argument("--economy", action="store_true", help="let the gate step aside where judging costs more")
    options = parser.parse_args()
    gate = ALWAYS_JUDGED | {"fleet": ["quick"], "economy": options.economy, "hold": "answer"}
    with house({"big": options.judge, "quick": options.member}, gate=gate) as here:
        asyncio.run(measure(here, options))


if __name__ == "__main__":
    main()
