"""What the doctor says of settings, folders, programs, ports, models and memory."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.engine.tiny_models import write_llama
from twd.cli.doctor import checks, models, programs
from twd.cli.doctor.findings import Finding, FindingSection, Severity, document, fixable, passed
from twd.cli.doctor.programs import EngineBuild, NeededPort
from twd.process.home import RunningInstance, StateFolder
from twd.settings.model import Settings
from twd.settings.show import check_settings
from twd.supervisor.model_weights import read_weights

GIB = 1 << 30
CPU = EngineBuild("0.3.36", rpc=True, devices=["CPU"])


def made(**fields: object) -> Settings:
    return msgspec.convert(fields, Settings)


def report(tmp_path: Path, text: str) -> list[Finding]:
    file = tmp_path / "twd.yaml"
    file.write_text(text)
    return checks.check_config(check_settings(str(file), {}, tmp_path, tmp_path))


def verdicts(findings: list[Finding]) -> list[Severity]:
    return [finding.verdict for finding in findings]


# -- settings and the state folder -------------------------------------------------------------


def test_settings(tmp_path: Path) -> None:
    assert verdicts(report(tmp_path, "edge:\n  port: 9000\n")) == [Severity.PASS]
    broken = report(tmp_path, "edge:\n  prot: 9000\n  host: 5\n")
    assert verdicts(broken) == [Severity.FAIL, Severity.FAIL]
    assert any("twd.yaml:2" in finding.detail and "port" in finding.detail for finding in broken)
    missing = report(tmp_path, "models:\n  m:\n    path: gone.gguf\n")
    assert verdicts(missing) == [Severity.WARN]
    assert all(finding.mend for finding in [*broken, *missing])


def test_something_to_serve() -> None:
    assert checks.check_served(Settings()).mend == "twd up --demo"
    served = made(models={"m": {"path": "m.gguf"}}, backends={"other": {"url": "http://x:1"}})
    assert checks.check_served(served).detail == "m, other; m is the default"


def test_an_open_door_without_tls() -> None:
    assert checks.check_door(Settings()) == []
    (finding,) = checks.check_door(made(edge={"host": "0.0.0.0"}))
    assert finding.verdict is Severity.WARN
    assert checks.check_door(made(edge={"host": "0.0.0.0", "tls": {"cert": "c", "key": "k"}})) == []


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ({"bus": {"host": "0.0.0.0"}, "agent": {"host": "::", "token": "t"}}, ""),
        ({"bus": {"host": "localhost"}, "agent": {"allow_plaintext": True}}, ""),
        ({"agent": {"host": "0.0.0.0", "token": "t", "allow_plaintext": True}}, "agent.token travels"),
        ({"bus": {"url": "nats://10.0.0.1:4222,127.0.0.1:4222"}}, "bus.url is nats://10.0.0.1:4222"),
        ({"bus": {"url": "nats://127.0.0.1:4222,[::1]:4222,localhost"}}, ""),
        ({"bus": {"url": "tls://10.0.0.1:4222"}}, ""),
        ({"bus": {"url": "10.0.0.1:4222", "tls": {"fingerprint": "0" * 64}}}, ""),
    ],
)
def test_nothing_goes_in_the_clear_unless_it_is_asked_for_and_then_it_is_told(
    written: dict[str, Any], told: str
) -> None:
    found = checks.check_door(made(**written))
    assert [told in finding.detail for finding in found] == ([True] if told else [])


def test_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert verdicts(checks.check_home(StateFolder(tmp_path / "none"), None)) == [Severity.SKIP]


def test_secrets_that_others_can_read_are_mended(tmp_path: Path) -> None:
    home = StateFolder(tmp_path / "home dir")
    home.prepare()
    home.path.chmod(0o755)
    (home.path / "keys.json").write_text("{}")
    (home.path / "keys.json").chmod(0o644)
    (home.path / "broker.token").touch(0o600)
    found = checks.check_home(home, os.getuid())
    assert verdicts(found) == [Severity.PASS, Severity.FAIL, Severity.FAIL]
    assert found[1].mend == f"chmod 700 '{home.path}'"
    for finding in found[1:]:
        assert finding.fix is not None
        finding.fix()
    assert verdicts(checks.check_home(home, os.getuid())) == [Severity.PASS]


def test_somebody_elses_folder(tmp_path: Path) -> None:
    home = StateFolder(tmp_path)
    (finding,) = [one for one in checks.check_home(home, os.getuid() + 1) if one.name == "state folder"]
    assert finding.verdict is Severity.FAIL
    assert "chown" in finding.mend


@pytest.mark.skipif(os.getuid() != 0, reason="gives a file away")
def test_somebody_elses_files_in_a_folder_of_ours(tmp_path: Path) -> None:
    """As a `sudo twd up` leaves them."""
    home = StateFolder(tmp_path / "home")
    home.prepare()
    (home.run / "lock").touch(0o600)
    os.chown(home.run / "lock", 65534, 65534)
    (finding,) = checks.check_home(home, os.getuid())
    assert finding.verdict is Severity.FAIL
    assert "run/lock belongs to user 65534" in finding.detail
    assert str(home.path) in finding.mend


@pytest.mark.parametrize(
    "record", [b"{", msgspec.json.encode(RunningInstance(pid=1, born=1.0, started_ms=1, version="1", node="n"))]
)
def test_what_a_dead_supervisor_left_is_cleared(tmp_path: Path, record: bytes) -> None:
    home = StateFolder(tmp_path / "home")
    home.prepare()
    file = home.run / "instance.json"
    file.write_bytes(record)
    file.chmod(0o600)
    (finding,) = [one for one in checks.check_home(home, None) if one.name == "last run"]
    assert finding.fix is not None
    finding.fix()
    assert not file.exists()
    assert not home.held()


@pytest.mark.parametrize(
    ("free", "verdict"), [(1 << 20, Severity.FAIL), (GIB, Severity.WARN), (9 * GIB, Severity.PASS)]
)
def test_disk(tmp_path: Path, free: int, verdict: Severity) -> None:
    assert checks.check_disk(tmp_path, free).verdict is verdict


def test_a_clock_that_cannot_be_right() -> None:
    assert checks.check_clock(5, 6).verdict is Severity.FAIL
    assert checks.check_clock(7, 6).verdict is Severity.PASS


# -- programs and ports ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "verdict"),
    [
        ("nats-server: v2.12.1", Severity.PASS),
        ("nats-server: v2.9.25", Severity.FAIL),
        ("nats-server: v3.0.0-beta", Severity.PASS),
        ("nats-server is not installed", Severity.FAIL),
        ("", Severity.FAIL),
    ],
)
def test_nats_server(told: str, verdict: Severity) -> None:
    assert programs.check_nats(told, embedded=True).verdict is verdict
    assert programs.check_nats(told, embedded=False).verdict is Severity.SKIP


def test_llama_that_cannot_be_loaded() -> None:
    (finding,) = programs.check_llama(EngineBuild("0.3.36", problem="illegal instruction"), Settings(), "0.3.36")
    assert finding.verdict is Severity.FAIL
    assert finding.mend == "twd engine install"


def test_llama_without_rpc_matters_for_pools() -> None:
    build = replace(CPU, rpc=False)
    pooled = made(pool={"engine": "rpc", "workers": [{"host": "box"}]})
    assert verdicts(programs.check_llama(CPU, Settings(), "0.3.36")) == [Severity.PASS]
    assert verdicts(programs.check_llama(build, Settings(), "0.3.36")) == [Severity.PASS, Severity.WARN]
    assert verdicts(programs.check_llama(build, pooled, "0.3.36")) == [Severity.PASS, Severity.FAIL]
    assert programs.check_llama(build, pooled, "0.3.36")[1].mend == "twd engine install"


def test_llama_without_the_wanted_device() -> None:
    wanted = made(engine={"backend": "cuda"}, models={"m": {"path": "m.gguf", "backend": "vulkan"}})
    found = programs.check_llama(CPU, wanted, "0.3.36")
    assert verdicts(found) == [Severity.PASS, Severity.FAIL]
    assert found[1].mend == "twd engine install --backend cuda"
    assert verdicts(programs.check_llama(replace(CPU, accelerated=True), wanted, "0.3.36")) == [Severity.PASS]


def test_llama_with_kernels_that_may_crash() -> None:
    found = programs.check_llama(replace(CPU, amx=True), Settings(), "0.3.36")
    assert verdicts(found) == [Severity.PASS, Severity.WARN]
    assert found[1].mend == "twd engine install"


def test_a_build_without_our_kernels_is_told() -> None:
    found = programs.check_llama(replace(CPU, kernels=False), Settings(), "0.3.36")
    assert [one.name for one in found] == ["llama.cpp", "llama.cpp kernels"]
    assert found[1].mend == "twd engine install"


def test_llama_of_another_version() -> None:
    assert verdicts(programs.check_llama(replace(CPU, version="0.3.1"), Settings(), "0.3.36"))[1] is Severity.WARN


def test_ports() -> None:
    free = NeededPort("API port", "TWD_EDGE_PORT", "127.0.0.1", 8088, free=True)
    taken = replace(free, free=False, owner_pid=7, owner="other program", spare=9001)
    assert programs.check_port(free, frozenset()).verdict is Severity.PASS
    assert programs.check_port(taken, frozenset([7])).detail.endswith("is ours")
    finding = programs.check_port(taken, frozenset())
    assert (finding.verdict, finding.mend) == (Severity.FAIL, "TWD_EDGE_PORT=9001 twd up")
    assert "pid 7 has it: other program" in finding.detail
    assert programs.check_port(replace(taken, can_move=True), frozenset()).verdict is Severity.PASS
    assert "another user's program" in programs.check_port(replace(taken, owner_pid=0), frozenset()).detail


# -- models and memory -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("models") / "tiny.gguf")


def test_a_whole_model(tiny: Path) -> None:
    settings = made(models={"m": {"path": str(tiny), "ctx_size": 1024, "parallel": 2, "chat_template": "t.jinja"}})
    (weights,) = read_weights(settings)
    (finding,) = models.check_weights(weights)
    assert finding.verdict is Severity.PASS
    assert "llama, F32" in finding.detail
    assert weights.info is not None
    assert weights.needed == weights.info.weight_bytes + weights.info.kv_bytes_per_token() * 1024 * 2


def test_models_that_do_not_fit_their_settings(tiny: Path) -> None:
    (weights,) = read_weights(made(models={"m": {"path": str(tiny), "ctx_size": 9000}}))
    found = models.check_weights(weights)
    assert verdicts(found) == [Severity.PASS, Severity.WARN, Severity.WARN]
    assert found[1].mend == "models.m.ctx_size: 4096"
    assert "chat template" in found[2].detail


def test_models_that_are_gone_or_cut_short(tiny: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny.read_bytes()[:-1000])
    settings = made(models={"m": {"path": str(tmp_path / "gone.gguf")}}, drafters=[{"path": str(cut)}])
    gone, short = (models.check_weights(one)[0] for one in read_weights(settings))
    assert (gone.verdict, short.verdict) == (Severity.FAIL, Severity.FAIL)
    assert "no such file" in gone.detail
    assert "cut short" in short.detail


def test_drafters_of_other_tokens(tiny: Path) -> None:
    settings = made(models={"m": {"path": str(tiny)}}, drafters=[{"path": str(tiny), "name": "d"}])
    target, drafter = read_weights(settings)
    assert models.check_pairs([target, drafter]) == []
    assert drafter.info is not None
    other = replace(drafter, info=replace(drafter.info, vocabulary=99))
    assert verdicts(models.check_pairs([target, other])) == [Severity.WARN]
    elsewhere = made(drafters=[{"path": "far.gguf", "node": "box"}, {"url": "http://x:1"}])
    assert read_weights(elsewhere) == []


def test_memory(tiny: Path) -> None:
    weights = read_weights(made(models={"m": {"path": str(tiny)}}))
    needed = sum(one.needed for one in weights)
    assert models.check_memory([], GIB, GIB, running=False, accelerated=False).verdict is Severity.SKIP
    assert models.check_memory(weights, needed, GIB, running=False, accelerated=False).verdict is Severity.PASS
    short = models.check_memory(weights, needed - 1, GIB, running=False, accelerated=False)
    assert short.verdict is Severity.FAIL
    assert "models.m.ctx_size" in short.mend
    assert models.check_memory(weights, 0, GIB, running=True, accelerated=False).verdict is Severity.PASS
    assert models.check_memory(weights, 0, needed - 1, running=False, accelerated=True).verdict is Severity.WARN


# -- findings ----------------------------------------------------------------------------------


def test_warnings_are_allowed() -> None:
    odd, bad = Finding("a", Severity.WARN, "d"), Finding("b", Severity.FAIL, "d", "mend", lambda: None)
    assert passed([FindingSection("s", [odd])])
    assert not passed([FindingSection("s", [odd, bad])])
    assert fixable([FindingSection("s", [odd, bad])]) == [bad]
    told = document([FindingSection("s", [bad]), FindingSection("empty", [])], ["something"])
    assert told["passed"] is False
    assert [section["title"] for section in told["sections"]] == ["s"]
    assert told["sections"][0]["results"][0]["can_fix"] is True
