#!/usr/bin/env python3
"""Throw random frames and cut connections at the stages of a ring; see that none is lost and no text is wrong.

    .venv/bin/python contrib/ring/fuzz_stage.py --frames 100000
    .venv/bin/python contrib/ring/fuzz_stage.py --frames 20000 --model FILE.gguf --cuts 0,15,30

Without a model, a small one made of numpy is cut in two. Each stage runs in this process, so a crash of the engine
would end the run. It ends with a table of what the stages named, and exit status 0.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.ring.fake_slices import VOCABULARY
from tests.ring.rings import PLAIN, QUICK, Ring, fake_ring, native_ring
from tests.ring.test_fake_rings import PROMPT, say
from tests.stage.fuzzing import Fuzz
from tests.stage.hostile_frames import FrameMaker
from twd.ring.frames import Open, SessionSpec
from twd.wire.job import Sampling

_TOKENS = 8


@contextmanager
def made_ring(arguments: argparse.Namespace) -> Iterator[Ring]:
    """The ring that is attacked."""
    rules = QUICK if arguments.tls else PLAIN
    if not arguments.model:
        with fake_ring(2, rules) as ring:
            yield ring
        return
    cuts = [int(part) for part in arguments.cuts.split(",")]
    with (
        tempfile.TemporaryDirectory() as folder,
        native_ring(arguments.model, cuts, Path(folder), rules, ctx_size=256) as ring,
    ):
        yield ring


def text_of(ring: Ring) -> list[int]:
    """What a fresh session says."""
    hand = ring.connect()
    hand.send(Open(0, SessionSpec(Sampling(), 0, len(PROMPT), ignore_eos=True)))
    said = say(hand, PROMPT, _TOKENS)
    hand.close()
    return said


def main() -> None:
    """Attack, check, report."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--frames", type=int, default=100_000)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--model", type=Path)
    options.add_argument("--cuts", default="0,15,30")
    options.add_argument("--tls", action="store_true")
    arguments = options.parse_args()
    began = time.monotonic()
    with made_ring(arguments) as ring:
        truth = text_of(ring)
        wrong = 0

        def check() -> None:
            nonlocal wrong
            wrong += text_of(ring) != truth

        engine = ring.stages[0].server.engine
        vocabulary = engine.vocab_size or VOCABULARY
        fuzz = Fuzz(ring, FrameMaker(arguments.seed, engine.n_slots, vocabulary, engine.ctx_size), check)
        fuzz.run(arguments.frames, lambda one: print(f"{one.sent} frames over {one.links} links", flush=True))
        failures = [repr(failure) for stage in ring.stages for failure in stage.failures]
    print(f"{fuzz.sent} frames, {fuzz.links} links, {fuzz.cuts} cut within a frame, {fuzz.strangers} strangers")
    print("named:", ", ".join(f"{name} {count}" for name, count in sorted(fuzz.last_faults.items())))
    print(f"stages lost: {len(failures)}, wrong texts: {wrong}, {time.monotonic() - began:.0f} s")
    raise SystemExit(1 if failures or wrong else 0)


if __name__ == "__main__":
    main()
