"""The file of members: private, whole, changed by one at a time; and the list that the broker reads."""

import subprocess
import threading
from functools import partial
from pathlib import Path

import pytest

from tests.membership.test_core import NOW, a_token
from twd.bus.broker import EmbeddedBroker, server_binary
from twd.membership.core import with_token
from twd.membership.store import OWN_ROLES, MemberStore
from twd.wire.failures import TwdError


def test_what_is_written_is_private_and_holds_no_secret(tmp_path: Path) -> None:
    store, token = MemberStore(tmp_path), a_token()
    store.for_broker("first").prepare()
    store.change(partial(with_token, token=token, now_ms=NOW))
    assert store.load().tokens == (token,)
    for file in (store.path, store.users_file, store.probe_file, store.keys_of("first") / "admin.nk"):
        assert file.stat().st_mode & 0o077 == 0, file
    seeds = [file.read_text().strip() for file in store.keys.rglob("*.nk")]
    assert len(seeds) == len(OWN_ROLES)
    assert not [seed for seed in seeds if seed in store.users_file.read_text() + store.path.read_text()]


def test_changes_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    store, start = MemberStore(tmp_path), threading.Barrier(6)
    (tmp_path / "broker").mkdir()

    def add() -> None:
        start.wait(10)
        MemberStore(tmp_path).change(partial(with_token, token=a_token(), now_ms=NOW))

    threads = [threading.Thread(target=add) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(store.load().tokens) == 6


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"{", "Repair it"),
        (b"\xff", "Repair it"),
        (b'{"version": 2, "machines": 7}', "newer version"),
        (b'{"version": 1, "machines": 7}', "Repair it"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_and_left_as_it_is(tmp_path: Path, content: bytes, told: str) -> None:
    store = MemberStore(tmp_path)
    store.path.write_bytes(content)
    with pytest.raises(TwdError, match=told):
        store.load()
    with pytest.raises(TwdError, match=told):
        store.change(lambda members: members)
    assert store.path.read_bytes() == content


@pytest.mark.nats
def test_the_broker_understands_its_configuration(tmp_path: Path) -> None:
    store = MemberStore(tmp_path / 'a "home"')
    broker = EmbeddedBroker(store.home, host="0.0.0.0", users=store.for_broker("first", ("played",)))
    broker.prepare()
    store.change(partial(with_token, token=a_token(), now_ms=NOW))
    command = [str(server_binary()), "-t", "-c", str(broker.config_file)]
    checked = subprocess.run(command, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert store.own_nodes() == ["first", "played"]
