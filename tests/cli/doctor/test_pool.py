"""What the doctor says of several machines, of folders and programs, and of families."""

from pathlib import Path

import msgspec
import pytest

from tests.engine.rpc.test_probe import answer, listening, saying
from tests.gguf_tools.test_inspect import write
from twd.cli.doctor import pool
from twd.cli.doctor.findings import Severity
from twd.cli.doctor.live import ServerProbe
from twd.cli.doctor.probes import _ask_peer, _ask_worker, guest_look, look_elsewhere, program_versions
from twd.cli.tune.proposal import MachineFacts
from twd.engine.rpc.probe import OURS
from twd.settings.model import PoolConfig, Settings, WorkerConfig
from twd.supervisor.model_weights import read_weights
from twd.wire.base import InstanceId, NodeId
from twd.wire.leases.base import LeaseFacts
from twd.wire.leases.machine import AgentFacts, SwarmFacts
from twd.wire.node import Build, GpuFacts, ModelFile, NodeFacts, ProcessFacts, ProcessKind
from twd.wire.service import ServiceLease
from twd.wire.swarm import Fetching, LayerRange, Store

GIB = 1 << 30


def machine(name: str, version: str = "1", rpc: str = "3.0.0", **fields: object) -> NodeFacts:
    facts = NodeFacts(node=NodeId(name), instance=InstanceId(f"agent.{name}.x"), machine=name, pid=1)
    return msgspec.structs.replace(facts, builds=[Build(name="engine", version=version, rpc=rpc)], **fields)


def copy(name: str, digest: str, problem: str = "") -> ModelFile:
    return ModelFile(name=name, path=f"/m/{name}.gguf", size_bytes=5, hash=digest, problem=problem)


def verdicts(findings: object) -> list[Severity]:
    return [finding.verdict for finding in findings]  # type: ignore[attr-defined]


def test_machines_that_match() -> None:
    alike = [machine("desk", models=[copy("a", "1")]), machine("shelf", models=[copy("a", "1")])]
    assert set(verdicts(pool.check_machines(alike))) == {Severity.PASS}
    assert len(pool.check_machines(alike[:1])) == 1
    assert pool.check_machines([]) == []


def test_machines_of_two_versions() -> None:
    *_, finding = pool.check_machines([machine("desk", "1"), machine("shelf", "2", "4.0.0")])
    assert finding.verdict is Severity.FAIL
    assert "desk: 1 (RPC 3.0.0), shelf: 2 (RPC 4.0.0)" in finding.detail
    assert finding.mend.startswith("pip install")


def test_two_files_of_one_name() -> None:
    *_, finding = pool.check_machines([machine("a", models=[copy("m", "1")]), machine("b", models=[copy("m", "2")])])
    assert (finding.verdict, finding.name) == (Severity.FAIL, "copies of m")
    assert finding.mend.startswith("sha256sum /m/m.gguf")


def test_machines_that_cannot_fetch_layers() -> None:
    def lease(service: str, facts: LeaseFacts) -> ServiceLease:
        return ServiceLease(
            service=service,
            instance=InstanceId("x"),
            node=NodeId("shed"),
            pid=1,
            version="1",
            started_ms=0,
            renewed_ms=0,
            facts=facts,
        )

    job = Fetching(hash="ab" * 16, layers=LayerRange(first=4, end=9), problem="the disk of /m is full")
    full = Store(accepts=True, fetching=[job])
    room, failed = pool.check_fetches([lease("swarm", SwarmFacts(store=full)), lease("agent", AgentFacts())])
    assert (room.verdict, failed.verdict) == (Severity.WARN, Severity.WARN)
    assert "swarm.disk_gib" in room.mend
    assert "layers 4-9 of the model abababab did not come: the disk of /m is full" in failed.detail
    assert not pool.check_fetches([lease("swarm", SwarmFacts(store=Store(accepts=True, room_bytes=1)))])


def test_two_agents_on_one_computer_are_told() -> None:
    told = (machine(name, computer=computer) for name, computer in zip("abc", "xxy", strict=True))
    *_, finding = pool.check_machines(list(told))
    assert (finding.verdict, finding.name) == (Severity.PASS, "machines on one computer")
    assert finding.detail.startswith("a and b are one computer: what they share counts once")


def test_a_machine_with_troubles() -> None:
    noted, broken = machine("a", notes=["nvidia-smi hangs"]), machine("b", models=[copy("m", "", "cut short")])
    told = [finding.detail for finding in pool.check_machines([noted, broken])][:2]
    assert told[0] == "nvidia-smi hangs"
    assert "m: cut short" in told[1]


def test_a_card_that_the_engine_was_not_built_for_is_told_with_the_build_that_uses_it() -> None:
    card = GpuFacts(name="RTX 3090", backend="cuda")
    for backends, found in (["CPU"], 2), (["CUDA", "CPU"], 1):
        facts = machine("desk", gpus=[card])
        facts = msgspec.structs.replace(facts, builds=[Build(name="engine", version="1", backends=backends)])
        told = pool.check_machines([facts])
        assert len(told) == found
    _, finding = pool.check_machines([msgspec.structs.replace(facts, builds=[Build(name="engine", backends=["CPU"])])])
    assert (finding.verdict, finding.name) == (Severity.WARN, "RTX 3090 of desk")
    assert finding.mend == "CMAKE_ARGS=-DGGML_CUDA=on make setup"


def test_a_folder_that_is_not_there_is_made(tmp_path: Path) -> None:
    settings = msgspec.convert({"agent": {"model_dirs": [str(tmp_path), str(tmp_path / "more")]}}, Settings)
    (finding,) = pool.check_folders(settings)
    assert finding.mend == f"mkdir -p {tmp_path / 'more'}"
    assert finding.fix is not None
    finding.fix()
    assert pool.check_folders(settings) == []


def test_llama_server_is_looked_for() -> None:
    assert pool.check_programs(Settings(), {}) == []
    wanted = {"pool": {"engine": "llama-server"}, "agent": {"binaries": {"llama_server": "/no/such/llama-server"}}}
    settings = msgspec.convert(wanted, Settings)
    (finding,) = pool.check_programs(settings, {})
    assert finding.verdict is Severity.FAIL
    assert "agent.binaries.llama_server" in finding.mend
    assert "does not tell" in program_versions(settings)["/no/such/llama-server"]
    wanted["agent"] = {"binaries": {"llama_server": "sh"}}
    there = pool.check_programs(msgspec.convert(wanted, Settings), {"sh": "version: 9"})
    assert (there[0].verdict, there[0].detail) == (Severity.PASS, "version: 9")


def test_settings_that_do_not_fit_the_memory(tmp_path: Path) -> None:
    path = str(write(tmp_path / "m.gguf"))
    settings = msgspec.convert({"models": {"m": {"path": path, "ctx_size": 2048, "parallel": 256}}}, Settings)
    weights = read_weights(settings)
    little = MachineFacts(cores=4, threads=8, total=GIB, available=1 << 19)
    (finding, *_) = pool.check_tuning(weights, settings, little)
    assert finding.verdict is Severity.WARN
    assert "models.m." in finding.mend
    plenty = MachineFacts(cores=4, threads=8, total=64 * GIB, available=60 * GIB)
    assert pool.check_tuning(weights, settings, plenty) == []


@pytest.mark.parametrize(("architecture", "fits"), [("llama", True), ("qwen2", False), ("", True)])
def test_a_drafter_of_another_family(tmp_path: Path, architecture: str, fits: bool) -> None:
    wanted = {
        "models": {"big": {"path": str(write(tmp_path / "big.gguf"))}},
        "drafters": [{"url": "http://10.0.0.9:11434", "name": "quick", "for_model": "big"}],
    }
    settings = msgspec.convert(wanted, Settings)
    look = ServerProbe("drafter quick", "http://10.0.0.9:11434", architecture=architecture)
    found = pool.check_families(settings, read_weights(settings), [look])
    assert (found == []) is fits


@pytest.mark.parametrize("engine", ["rpc", "llama-server"])
async def test_a_worker_without_an_agent_is_of_use_to_whoever_takes_it_alone(engine: str) -> None:
    settings = msgspec.convert({"engine": engine}, PoolConfig)
    async with listening(saying(answer(OURS.major, OURS.minor))) as port:
        worker = WorkerConfig(host="127.0.0.1", peer_port=1, rpc_port=port)
        look = await _ask_peer(worker, settings)
        ring = await _ask_peer(worker, PoolConfig(engine="ring"))
    assert (look.problem, look.use) == ("", f"its RPC worker answers ({OURS})")
    assert "nobody answers" in ring.problem


async def test_one_that_would_be_reached_in_the_clear_is_not_asked() -> None:
    look = await _ask_peer(WorkerConfig(host="guest.invalid", peer_port=1), PoolConfig(engine="rpc"))
    assert "set pool.trusted_lan: true" in look.problem


async def test_a_guest_is_told_of_as_its_coordinator_sees_it_and_not_asked() -> None:
    process = ProcessFacts(
        process="rpc.guest.9", kind=ProcessKind.RPC, state="ready", host="box", port=9, version="7.0.0"
    )
    guest = msgspec.structs.replace(machine("box"), guest=True, hostname="box", processes=[process])
    settings = Settings(pool=PoolConfig(engine="rpc", workers=(WorkerConfig(host="box", rpc_port=9),)))
    (look,) = await look_elsewhere(settings, [guest])
    assert (look.problem, look.needed) == ("", False)
    assert "port 9 (7.0.0)" in look.use
    gone = msgspec.structs.replace(
        guest, processes=[msgspec.structs.replace(process, state="unusable", note="refused")]
    )
    assert guest_look(gone).problem == "refused"
    assert pool.check_machines([gone]) == [], "it has no agent whose log could be read"


async def test_a_worker_without_an_agent_is_asked_itself() -> None:
    look = await _ask_worker("127.0.0.1", 9)
    assert look.problem
    assert "rpc-server -H 127.0.0.1 -p 9" in look.mend
