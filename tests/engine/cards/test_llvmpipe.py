"""Runs the tests of `on_a_card.py` on llvmpipe. This process must see no card: other tests count its devices."""

import subprocess
import sys

import pytest

from tests.rules.source import ROOT

LIMIT_S = 600


@pytest.mark.card
@pytest.mark.thorough
@pytest.mark.model
@pytest.mark.slow
def test_what_must_hold_on_a_card_holds_on_llvmpipe(llvmpipe: dict[str, str]) -> None:
    inside = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "tests/engine/cards/on_a_card.py")
    done = subprocess.run(
        [sys.executable, *inside], cwd=ROOT, env=llvmpipe, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " skipped" not in done.stdout, "the card was not seen"
