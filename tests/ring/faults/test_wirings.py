"""Wirings that do not fit are refused, and the old ring stands."""

import msgspec
import pytest

from tests.ring.fake_slices import N_EMBD, fake_text
from tests.ring.faults.broken_rings import reason, works
from tests.ring.rings import Ring, fake_ring
from tests.ring.test_fake_rings import PROMPT, say, spec
from twd.ring.frames import (
    Open,
)
from twd.ring.trust import ring_nonce
from twd.wire.failures import TwdError


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"file_hash": "other"}, "another file"),
        ({"first": 1}, "holds layers"),
        ({"end": 8}, "holds layers"),
        ({"index": 0}, "which is not place"),
        ({"index": 2}, "which is not place"),
        ({"count": 2}, "which is not place"),
        ({"stage": "stage.other"}, "this is"),
        ({"encrypted": False}, "trusted_lan"),
        ({"next_port": 0}, "no next one"),
        ({"next_certificate": "nonsense"}, "certificate"),
        ({"home_certificate": "nonsense"}, "certificate"),
        ({"home_certificate": ""}, "certificate"),
        ({"previous_certificate": ""}, "certificate"),
    ],
)
def test_a_wiring_that_does_not_fit_is_refused_and_the_old_ring_stands(
    ring: Ring, change: dict[str, object], says: str
) -> None:
    hand = ring.connect()
    wired = msgspec.structs.replace(ring.wirings("other", ring_nonce())[1], **change)
    with pytest.raises(TwdError, match=says):
        ring.stages[1].server.wire(wired)
    hand.send(Open(0, spec()))
    assert say(hand, PROMPT, 3) == fake_text(PROMPT, 3)
    hand.close()


def test_stages_of_other_widths_do_not_meet() -> None:
    with fake_ring(2) as ring:
        engine = ring.stages[1].server.engine
        engine.n_embd = N_EMBD + 1
        ring.wire()
        assert "states of" in reason(ring.stages[0])
        assert "too long" not in reason(ring.stages[1]), "what was not wanted is closed, not left to be missed"
        engine.n_embd = N_EMBD
        works(ring)
