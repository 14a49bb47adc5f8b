"""Measures a mixture: prompts without and with drafts, what was in memory, and what was read."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import msgspec

from twd.bench.client import BenchClient, BenchRequest, MeasuredAnswer
from twd.bench.product.http_client import Reply
from twd.bench.prompts import BenchPrompt
from twd.wire.base import ModelId
from twd.wire.job import Speculation
from twd.wire.leases.base import StreamedExperts

_MIB = 2**20
PLAIN, DRAFTED = "plain", "drafted"

Told = Callable[[str], None]


class MixtureRun(msgspec.Struct, frozen=True):
    """All prompts in one way. `hits` and `read_mib` (for each token) are None where nobody tells them."""

    way: str
    answers: int
    tokens: int
    first_ms: float
    tok_s: float
    acceptance: float | None = None
    hits: float | None = None
    read_mib: float | None = None


class MixtureReport(msgspec.Struct, frozen=True):
    """A whole measurement. `predicted_tok_s`: what the plan expects without drafts; 0: it could not be predicted."""

    model: str
    at: str
    runs: list[MixtureRun]
    equal: bool | None = None
    """Whether all texts were the same with drafts."""
    memory_mib: int = 0
    experts_mib: int = 0
    """Memory of the experts; 0: the model was loaded whole, or nobody tells."""
    predicted_tok_s: float = 0.0


@dataclass(frozen=True, slots=True)
class MixtureBench:
    """What to ask."""

    prompts: Sequence[BenchPrompt]
    max_tokens: int
    warmup: int


@dataclass(frozen=True, slots=True)
class AskedMixture:
    """A served model. `experts` gives what its speculator tells of them now, no older than the call."""

    client: BenchClient
    model: ModelId
    experts: Callable[[], Awaitable[StreamedExperts | None]]


async def measure_mixture(served: AskedMixture, bench: MixtureBench, tell: Told) -> tuple[list[MixtureRun], bool]:
    """Ask all prompts plainly, then with drafts. Returns both runs, and whether the texts were the same."""
    for number in range(bench.warmup):
        prompt = bench.prompts[number % len(bench.prompts)]
        await served.client.answer(served.model, prompt, BenchRequest(Speculation(), bench.max_tokens))
        tell(f"warm-up {number + 1}/{bench.warmup}")
    runs, texts = [], []
    for way in (PLAIN, DRAFTED):
        before = await served.experts()
        answers = []
        for prompt in bench.prompts:
            how = BenchRequest(Speculation(enabled=way == DRAFTED), bench.max_tokens)
            answers.append(await served.client.answer(served.model, prompt, how))
            tell(f"{way} {len(answers)}/{len(bench.prompts)}: {answers[-1].rate:.1f} tok/s")
        runs.append(run_of(way, answers, before, await served.experts()))
        texts.append([answer.tokens for answer in answers])
    return runs, texts[0] == texts[1]


def run_of(
    way: str, answers: Sequence[MeasuredAnswer], before: StreamedExperts | None, after: StreamedExperts | None
) -> MixtureRun:
    """The figures of some answers, and of the experts that were read meanwhile. Pure."""
    tokens = sum(len(answer.tokens) for answer in answers)
    spent = sum(answer.stats.decode_ms for answer in answers)
    checked = sum(answer.stats.checked for answer in answers)
    then, told = before or StreamedExperts(), after or StreamedExperts()
    asked, hits, read = told.asked - then.asked, told.hits - then.hits, told.read_bytes - then.read_bytes
    return MixtureRun(
        way=way,
        answers=len(answers),
        tokens=tokens,
        first_ms=_middle([answer.first_s * 1000 for answer in answers]),
        tok_s=1000 * sum(max(0, len(answer.tokens) - 1) for answer in answers) / spent if spent else 0.0,
        acceptance=sum(answer.stats.taken for answer in answers) / checked if checked else None,
        hits=hits / asked if asked else None,
        read_mib=read / _MIB / tokens if after is not None and tokens else None,
    )


def run_of_replies(replies: Sequence[Reply]) -> MixtureRun:
    """The figures of a server's answers. Pure."""
    spent = sum(reply.decode_ms for reply in replies)
    tokens = sum(reply.tokens for reply in replies)
    return MixtureRun(
        way="as served",
        answers=len(replies),
        tokens=tokens,
        first_ms=_middle([reply.first_ms for reply in replies]),
        tok_s=1000 * sum(max(0, reply.tokens - 1) for reply in replies) / spent if spent else 0.0,
    )


def experts_mib(experts: StreamedExperts | None) -> int:
    """The memory of the experts that a speculator tells."""
    return experts.memory_bytes // _MIB if experts is not None else 0


def _middle(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return round(ordered[len(ordered) // 2], 2) if ordered else 0.0
