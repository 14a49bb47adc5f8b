"""What `twd join` left behind becomes the bus and the name of this machine, unless settings say something else."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from twd.settings.errors import ConfigError
from twd.settings.identity import FILE_NAME, Identity
from twd.settings.load import Loaded, load_settings
from twd.settings.show import describe

PIN = "ab" * 32
IDENTITY = Identity(node="second", url="tls://rig:4222", fingerprint=PIN, roles=("machine",))


def loaded(folder: Path, content: bytes | None = None, **env: str) -> Loaded:
    state = folder / ".twd"
    state.mkdir()
    (state / FILE_NAME).write_bytes(msgspec.json.encode(IDENTITY) if content is None else content)
    return load_settings(None, env, folder, folder)


def test_a_machine_that_joined_uses_that_broker_with_its_own_keys(tmp_path: Path) -> None:
    found = loaded(tmp_path)
    bus = found.settings.bus
    assert (bus.url, bus.tls.fingerprint, bus.token) == ("tls://rig:4222", PIN, "")
    assert bus.nkey_dir == str(tmp_path / ".twd" / "keys")
    assert found.settings.node == "second"
    shown = {entry.key: entry for entry in describe(found)}
    assert shown["bus.url"].source.endswith(FILE_NAME)


def test_an_outside_broker_of_the_settings_wins(tmp_path: Path) -> None:
    found = loaded(tmp_path, TWD_BUS_URL="nats://elsewhere:4222")
    assert (found.settings.bus.url, found.settings.bus.nkey_dir) == ("nats://elsewhere:4222", "")


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({"TWD_BUS_HOST": "0.0.0.0"}, "twd leave"),
        ({"TWD_BUS_TOKEN": "s3cret"}, "twd leave"),
        ({"TWD_NODE": "other"}, "joined as second"),
    ],
)
def test_settings_that_say_something_else_are_refused(tmp_path: Path, env: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as refused:
        loaded(tmp_path, **env)
    assert "s3cret" not in str(refused.value)


def test_the_same_name_is_no_contradiction(tmp_path: Path) -> None:
    assert loaded(tmp_path, TWD_NODE="Second.lan").settings.node == "second"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"{", "move it away"),
        (b"\xff", "move it away"),
        (b'{"node": "a"}', "move it away"),
        (msgspec.json.encode(msgspec.structs.replace(IDENTITY, version=2)), "newer version"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_and_left(tmp_path: Path, content: bytes, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        loaded(tmp_path, content)
    assert (tmp_path / ".twd" / FILE_NAME).read_bytes() == content


def test_a_state_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / ".twd").write_text("")
    with pytest.raises(ConfigError, match=r"Not a directory.*TWD_HOME names another one"):
        load_settings(None, {}, tmp_path, tmp_path)


def test_a_token_opens_no_broker_that_others_reach(tmp_path: Path) -> None:
    env = {"TWD_BUS_HOST": "0.0.0.0", "TWD_BUS_TOKEN": "s3cret"}
    with pytest.raises(ConfigError, match="twd token add") as refused:
        load_settings(None, env, tmp_path, tmp_path)
    assert "s3cret" not in str(refused.value)
