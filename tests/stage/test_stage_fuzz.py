"""Nonsense in great numbers: no stage is lost, and no text is wrong. `contrib/ring/fuzz_stage.py` sends far more."""

import threading

import pytest

from tests.ring.fake_slices import VOCABULARY, fake_text
from tests.ring.rings import PLAIN, QUICK, fake_ring
from tests.ring.test_fake_rings import PROMPT, say, spec
from tests.stage.fuzzing import Fuzz
from tests.stage.hostile_frames import FrameMaker
from twd.ring.frames import Open
from twd.stage.server import LinkRules


@pytest.mark.parametrize(("rules", "frames"), [(PLAIN, 1500), (QUICK, 500)], ids=["plain", "tls"])
def test_hostile_frames_and_cut_connections_do_no_harm(rules: LinkRules, frames: int) -> None:
    truth = fake_text(PROMPT, 8)
    with fake_ring(2, rules) as ring:

        def check() -> None:
            hand = ring.connect()
            hand.send(Open(0, spec()))
            assert say(hand, PROMPT, 8) == truth
            hand.close()

        fuzz = Fuzz(ring, FrameMaker(frames, 4, VOCABULARY, 256), check)
        fuzz.run(frames)
        assert fuzz.last_faults
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith(("stage-engine", "stage-accept"))]
    assert left == []
