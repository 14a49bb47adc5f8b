"""The demo's first measurement: where drafts bring nothing, it says why and what to do."""

import pytest

from twd.supervisor.demo import GAIN, advice


@pytest.mark.parametrize(
    ("ratio", "allowed", "words", "command"),
    [
        (1.9, 2.0, "measures more", "bench"),
        (0.9, 0.0, "no draft was checked", "doctor"),
        (0.99, 1.0, "guesses cost too much here, and 40% were right", "bench"),
        (1.0, 2.5, "costs allow 2.5x", "doctor"),
    ],
)
def test_it_names_the_cause_and_a_command(ratio: float, allowed: float, words: str, command: str) -> None:
    told = advice(ratio, 0.4, allowed)
    assert words in told
    assert f"{command}`" in told
    assert (ratio >= GAIN) == ("measures more" in told)
