"""Engines of one computer find each other, and whoever ended is forgotten, however it ended."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from twd.process.core_plan import EngineRole
from twd.process.core_registry import CoreRegistry, OwnCores, engines_of, this_engine
from twd.wire.leases.base import CoreFacts

ENTERS = """
import sys
from pathlib import Path
from twd.process.core_registry import CoreRegistry, this_engine
from twd.process.core_plan import EngineRole
CoreRegistry(Path(sys.argv[1])).enter(this_engine("other", EngineRole.STAGE, "m", 1))
print("in", flush=True)
sys.stdin.read()
"""


def test_two_engines_know_each_other(tmp_path: Path) -> None:
    stage = OwnCores(EngineRole.STAGE, "big", board=CoreRegistry(tmp_path))
    drafter = OwnCores(EngineRole.DRAFTER, "small", board=CoreRegistry(tmp_path))
    assert not drafter.enter("d").beside
    stage.enter("s")
    share = drafter.look()
    assert share is not None
    assert (share.beside, share.yields, share.threads) == (("stage big",), True, 1)
    assert drafter.look() is None, "nothing changed"
    assert drafter.facts() == CoreFacts(threads=1, beside=["stage big"], yields=True)
    stage.leave()
    share = drafter.look()
    assert share is not None
    assert not share.yields
    drafter.leave()
    assert drafter.facts() is None
    assert not list(tmp_path.iterdir())


def test_who_comes_to_a_card_is_seen_by_those_who_are_there(tmp_path: Path) -> None:
    target = OwnCores(EngineRole.TARGET, "big", board=CoreRegistry(tmp_path))
    drafter = OwnCores(EngineRole.DRAFTER, "small", board=CoreRegistry(tmp_path))
    assert not drafter.enter("d", ("0000:01:00.0",)).beside
    target.enter("t")
    assert drafter.look() is None, "it computes on the processor"
    target.enter("t", ("0000:01:00.0",))
    share = drafter.look()
    assert share is not None
    assert (share.beside, share.on_card) == (("target big",), True)
    facts = drafter.facts()
    assert facts is not None
    assert facts.on_card
    target.leave()
    drafter.leave()


def test_who_was_killed_is_forgotten(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ENTERS, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        (known,) = engines_of(tmp_path)
        assert (known.name, known.asked, known.pid) == ("other", 1, other.pid)
        assert known.cores
        other.kill()
        other.wait()
    assert engines_of(tmp_path) == []
    assert not list(tmp_path.iterdir()), "what it left is taken away"


@pytest.mark.parametrize("nonsense", [b"", b"{", b"\xff\xfe", b'{"name": 3}', b'{"name": "x", "part": "king"}'])
def test_nonsense_is_no_engine(tmp_path: Path, nonsense: bytes) -> None:
    (tmp_path / "1-a.json").write_bytes(nonsense)
    board = CoreRegistry(tmp_path)
    board.enter(this_engine("me", EngineRole.TARGET, "m", 0))
    assert [one.name for one in board.engines()] == ["me"]
    board.leave()


def test_without_a_folder_one_knows_of_oneself(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cores = OwnCores(EngineRole.TARGET, "m", 3, CoreRegistry(tmp_path / "file" / "below"))
    assert cores.enter("me").threads == 3
    assert cores.look() is None
    cores.leave()


def test_a_link_to_elsewhere_is_not_followed(tmp_path: Path) -> None:
    elsewhere, link = tmp_path / "elsewhere", tmp_path / "link"
    elsewhere.mkdir()
    os.symlink(elsewhere, link)
    board = CoreRegistry(link)
    board.enter(this_engine("me", EngineRole.TARGET, "m", 0))
    assert not list(elsewhere.iterdir())
    assert [one.name for one in board.engines()] == ["me"]
