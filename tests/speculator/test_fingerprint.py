"""`system_fingerprint`: a short token that changes with what may change the text."""

import re

from twd.speculator.bounds import fingerprint_of


def test_it_is_a_short_token_of_vocabulary_and_settings() -> None:
    one = fingerprint_of("0123abcd", "2 threads, flash attention, keys in q8_0")
    assert re.fullmatch(r"fp_[0-9a-f]{10}", one)
    assert one == fingerprint_of("0123abcd", "2 threads, flash attention, keys in q8_0")
    assert one != fingerprint_of("0123abce", "2 threads, flash attention, keys in q8_0")
    assert one != fingerprint_of("0123abcd", "2 threads, flash attention, keys in f16")
