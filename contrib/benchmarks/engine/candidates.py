"""How much of a row of logits comes home for a sampled pick, if the logits stay where they are computed.

.venv/bin/python contrib/benchmarks/engine/candidates.py FILE [--tokens 100]

The model writes texts with usual settings. The processor is the device here: on a card the same comes home. Each pick
is compared with the sampler's.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from twd.decoding.sampler import SamplerFactory
from twd.engine.context import BatchTokens, Context, ContextSettings
from twd.engine.device_rows.binding import DeviceRows, LogitsPlace
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.engine.steps.binding import RuleHolder
from twd.wire.job import Sampling

TEXTS = (
    "The sun is a star. It",
    "def add(a, b):\n    return",
    "Once upon a time, in a small village by the sea, there lived",
)
SETTINGS = {
    "repeat_penalty 1.1": Sampling(repeat_penalty=1.1),
    "temperature 0.8, min_p 0.05": Sampling(temperature=0.8, min_p=0.05),
    "temperature 0.8, top_k 40, top_p 0.95, min_p 0.05": Sampling(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05),
    "the same, repeat_penalty 1.1": Sampling(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05, repeat_penalty=1.1),
    "temperature 0.7, top_k 20": Sampling(temperature=0.7, top_k=20),
    "temperature 0.7, top_p 0.9": Sampling(temperature=0.7, top_p=0.9),
    "temperature 1": Sampling(temperature=1.0),
    "temperature 1.5": Sampling(temperature=1.5),
}


@dataclass
class Found:
    """What picks with one setting took."""

    picks: int = 0
    numbers: int = 0
    whole: int = 0
    wrong: int = 0


def follow(context: Context, rows: DeviceRows, prompt: list[int], sampling: Sampling, count: int, found: Found) -> None:
    """Write one text, and count."""
    sampler = SamplerFactory(context.model.vocab).sampler(sampling, found.picks, prompt_len=len(prompt))
    assert sampler.rule is not None
    rule, text, fresh = RuleHolder(sampler.rule), list(prompt), list(prompt)
    context.clear(0)
    for _ in range(count):
        batch = BatchTokens()
        batch.add(0, len(text) - len(fresh), fresh, len(fresh) - 1)
        context.decode(batch)
        token = rows.choose(len(fresh) - 1, rule, text).token
        truth = sampler.pick(context.logits(len(fresh) - 1), text)
        found.picks += 1
        found.whole += token < 0
        found.numbers += rows.fetched + (context.model.vocab.size if token < 0 else 0)
        found.wrong += token not in (-1, truth)
        text.append(truth)
        fresh = [truth]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--tokens", type=int, default=100)
    options = parser.parse_args()
    with (
        LoadedGguf.load(ModelLoadOptions(options.file)) as model,
        Context(model, ContextSettings(ctx_size=options.tokens + 64)) as context,
    ):
        if not context.leave_logits(LogitsPlace.ANYWHERE) or context.device_rows is None:
            parser.error("this build of llama.cpp cannot leave logits where they are; make setup builds one that can")
        size = model.vocab.size
        print(
            f"| settings (rows of {size * 4 / 1000:.1f} kB) | kB a pick | whole rows | other picks |\n|---|---|---|---|"
        )
        for name, sampling in SETTINGS.items():
            found = Found()
            for text in TEXTS:
                prompt = model.vocab.plain(text)
                follow(context, context.device_rows, prompt, sampling, options.tokens, found)
            shares = f"{found.numbers * 4 / 1000 / found.picks:.1f} | {100 * found.whole / found.picks:.1f} %"
            print(f"| {name} | {shares} | {found.wrong} of {found.picks} |", flush=True)


if __name__ == "__main__":
    main()
