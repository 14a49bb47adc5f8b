"""Hosts and paths as people write them."""

from pathlib import Path

import pytest

from twd.net.addresses import bare_host, bracketed
from twd.settings.paths import path_of


@pytest.mark.parametrize(
    ("written", "bare", "in_url"),
    [("[::1]", "::1", "[::1]"), ("::1", "::1", "[::1]"), ("10.0.0.1", "10.0.0.1", "10.0.0.1"), ("rig", "rig", "rig")],
)
def test_brackets_stand_in_urls_alone(written: str, bare: str, in_url: str) -> None:
    assert bare_host(written) == bare
    assert bracketed(written) == in_url


def test_a_wave_is_a_home_and_that_of_nobody_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert path_of("~/m.gguf") == path_of(Path("~/m.gguf")) == Path("/home/me/m.gguf")
    assert path_of("~nobody-of-this-name/m.gguf") == Path("~nobody-of-this-name/m.gguf")
    assert path_of("a/~b") == Path("a/~b")
