"""What is seen of a machine, and every way in which it is not fit, before anything is changed there."""

import base64
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.cli.deploy.cksum import cksum
from twd.cli.deploy.looking import BundleNeeds, RemoteFacts, look_script, problems_of, read_facts, remarks_of
from twd.settings.identity import Identity

NEEDS = BundleNeeds("Linux", "x86_64", (3, 11), (2, 28), frozenset({"avx2"}), 100 << 20)
FIT = RemoteFacts(
    system="Linux",
    machine="x86_64",
    host="rig",
    uid=1000,
    libc="glibc 2.36",
    flags=frozenset({"avx2", "fma"}),
    pythons=((3, 11, "/usr/bin/python3.11"),),
    base="/home/me/.local/share/twd",
    writable=True,
    free_bytes=10 << 30,
    mount=frozenset({"rw", "relatime"}),
)


def test_a_machine_that_is_fit() -> None:
    assert list(problems_of(FIT, NEEDS, system_wide=False)) == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"machine": "aarch64"}, "these wheels are for Linux x86_64"),
        ({"system": "Darwin"}, "it is Darwin"),
        ({"system": "", "machine": ""}, "an unknown system"),
        ({"libc": "musl libc (x86_64)"}, "is musl"),
        ({"libc": "glibc 2.17"}, "glibc 2.17, and these wheels need 2.28"),
        ({"libc": "ldd (Debian GLIBC 2.24-11) 2.24"}, "glibc 2.24"),
        ({"pythons": ()}, "need Python 3.11, and there is none: install python3.11"),
        ({"pythons": ((3, 9, "/usr/bin/python3"),)}, "there is 3.9"),
        ({"flags": frozenset({"sse2"})}, "has no avx2"),
        ({"writable": False}, "cannot be written"),
        ({"mount": frozenset({"ro"})}, "read-only"),
        ({"mount": frozenset({"rw", "noexec"})}, "noexec"),
        ({"free_bytes": 50 << 20}, "50 MiB are free"),
    ],
)
def test_what_is_not_fit_is_told_with_what_to_do(changed: dict[str, Any], told: str) -> None:
    (problem,) = problems_of(replace(FIT, **changed), NEEDS, system_wide=False)
    assert told in problem


def test_into_the_system_goes_root_alone() -> None:
    assert "needs root" in next(problems_of(FIT, NEEDS, system_wide=True))
    assert not list(problems_of(replace(FIT, uid=0), NEEDS, system_wide=True))


def test_a_clock_that_is_wrong_stops_nothing_and_is_told() -> None:
    assert "differs by 3600 s" in next(remarks_of(replace(FIT, time=10_000), 13_600))
    assert not list(remarks_of(replace(FIT, time=10_000), 10_001))


def test_the_script_sees_this_machine_and_changes_nothing(tmp_path: Path) -> None:
    home = tmp_path / "a home; with 'quotes'"
    state = home / ".twd"
    state.mkdir(parents=True)
    identity = Identity(node="second", url="tls://rig:4222", fingerprint="ab" * 32)
    (state / "joined.json").write_bytes(msgspec.json.encode(identity))
    settings = b"# written by `twd deploy`\n{}\n"
    (state / "config.yaml").write_bytes(settings)
    before = sorted(home.rglob("*"))
    env = {"HOME": str(home), "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
    done = subprocess.run(
        ["sh", "-c", look_script(False, (3, 11))], env=env, capture_output=True, text=True, check=True
    )
    facts = read_facts(done.stdout)
    assert (facts.home, facts.state, facts.base) == (str(home), str(state), f"{home}/.local/share/twd")
    assert (facts.system, facts.writable, facts.state_there) == ("Linux", True, True)
    assert facts.free_bytes > 0
    assert facts.identity == identity
    assert (facts.config_sum, facts.config_ours) == (f"{cksum(settings)} {len(settings)}", True)
    assert facts.current == ""
    assert sorted(home.rglob("*")) == before


def test_where_the_version_is_in_use_no_python_is_started(tmp_path: Path) -> None:
    base = tmp_path / ".local" / "share" / "twd"
    python = base / "versions" / "1-abc" / "bin" / "python3"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    python.chmod(0o755)
    (base / "current").symlink_to("versions/1-abc")
    (base / "versions" / ".old-0").mkdir()
    env = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    command = ["sh", "-c", look_script(False, (3, 99), "1-abc")]
    facts = read_facts(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)
    assert facts.python((3, 99)) == f"{base}/current/bin/python3"
    assert sorted(facts.versions) == [".old-0", "1-abc"]
    assert not (tmp_path / "started").exists()


@given(st.text(max_size=300))
def test_anything_that_a_machine_says_is_read(said: str) -> None:
    assert isinstance(list(problems_of(read_facts(said), NEEDS, False)), list)


@given(st.binary(max_size=60))
def test_an_identity_that_makes_no_sense_is_none(data: bytes) -> None:
    assert read_facts(f"joined={base64.b64encode(data).decode()}\n").identity is None
