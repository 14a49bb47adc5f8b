"""A join string in the settings: in a variable, in the file or in a file of its own."""

from pathlib import Path

import pytest

from twd.settings.errors import ConfigError
from twd.settings.load import load_settings
from twd.settings.show import describe

PIN = "ab" * 32
JOIN = f"tls://s3cret@rig:4333?sha256={PIN}"


@pytest.mark.parametrize("way", ["variable", "file", "file of its own"])
def test_it_becomes_address_token_and_fingerprint(tmp_path: Path, way: str) -> None:
    (tmp_path / "join").write_text(JOIN + "\n")
    env = {"variable": {"TWD_BUS_JOIN": JOIN}, "file of its own": {"TWD_BUS_JOIN_FILE": "join"}}.get(way, {})
    if way == "file":
        (tmp_path / "twd.yaml").write_text(f"bus:\n  join: {JOIN}\n")
    loaded = load_settings(None, env, tmp_path, tmp_path)
    bus = loaded.settings.bus
    assert (bus.url, bus.token, bus.tls.fingerprint) == ("tls://rig:4333", "s3cret", PIN)
    shown = {entry.key: entry for entry in describe(loaded)}
    assert shown["bus.url"].source != "default"
    assert not any("s3cret" in str(entry.value) for entry in shown.values())


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({"TWD_BUS_JOIN": "s3cret"}, "twd invite"),
        ({"TWD_BUS_JOIN": f"{JOIN}0"}, "twd invite"),
        ({"TWD_BUS_JOIN_FILE": "gone"}, "cannot be read"),
        ({"TWD_BUS_JOIN_FILE": "/dev/zero"}, "no plain file"),
        ({"TWD_BUS_JOIN_FILE": "rubbish"}, "holds no join string"),
        ({"TWD_BUS_JOIN": JOIN, "TWD_BUS_URL": "nats://x:1"}, "join and url exclude each other"),
        ({"TWD_BUS_JOIN": JOIN, "TWD_BUS_TOKEN": "s3cret"}, "join and token exclude each other"),
        ({"TWD_BUS_JOIN": JOIN, "TWD_BUS_JOIN_FILE": "rubbish"}, "join and join_file exclude each other"),
    ],
)
def test_what_makes_no_sense_is_told_without_what_is_secret(tmp_path: Path, env: dict[str, str], told: str) -> None:
    (tmp_path / "rubbish").write_bytes(b"s3cret \xff")
    with pytest.raises(ConfigError, match=told) as refused:
        load_settings(None, env, tmp_path, tmp_path)
    assert "s3cret" not in str(refused.value)
