"""Checks of several machines: whether they match each other, and whether the programs of a pool are there."""

import shlex
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from twd.cli.doctor.finding_ids import FindingId
from twd.cli.doctor.findings import Finding, bad, good, odd
from twd.cli.doctor.live import ServerProbe
from twd.cli.tune.proposal import MachineFacts, ModelNeed, proposals
from twd.coordinator.core.machines.computers import told_once
from twd.coordinator.core.machines.device_names import unbuilt
from twd.kit.wording import count
from twd.settings.model import Settings
from twd.settings.paths import path_of
from twd.supervisor.model_weights import ModelWeights
from twd.wire.leases.machine import SwarmFacts
from twd.wire.node import ModelFile, NodeFacts
from twd.wire.service import ServiceLease

ENGINE = "engine"


def check_machines(nodes: Sequence[NodeFacts]) -> list[Finding]:
    """Whether the machines with agents fit together; one alone has nobody to differ from."""
    nodes = [facts for facts in nodes if not facts.guest]  # these have no agent
    found = [finding for facts in nodes for finding in (_machine(facts), *_unbuilt(facts))]
    if len(nodes) > 1:
        found += _engines(nodes)
        found += _files(nodes)
        found += _computers(nodes)
    return found


def _machine(facts: NodeFacts) -> Finding:
    name = f"machine {facts.node}"
    broken = [model for model in facts.models if model.problem]
    if facts.notes:
        return odd(FindingId.MACHINE_REMARK, name, "; ".join(facts.notes), f"twd logs agent  # on {facts.node}")
    if broken:
        problems = "; ".join(f"{model.name}: {model.problem}" for model in broken[:3])
        return odd(
            FindingId.MACHINE_FILES_BROKEN,
            name,
            f"{count(len(broken), 'file')} cannot be used: {problems}",
            f"ls -l {shlex.quote(broken[0].path)}",
        )
    return good(
        name,
        ", ".join((count(facts.cpu.cores, "core"), count(len(facts.gpus), "GPU"), count(len(facts.models), "model"))),
    )


def _unbuilt(facts: NodeFacts) -> Iterable[Finding]:
    for name, lacks, mend in unbuilt(facts):
        yield odd(
            FindingId.CARD_NOT_BUILT,
            f"{name} of {facts.node}",
            f"computes nothing: llama.cpp there was built without {lacks}",
            mend,
        )


def _engines(nodes: Sequence[NodeFacts]) -> Iterable[Finding]:
    """RPC workers of another version are refused, and a ring of two versions is not exact."""
    builds = {facts.node: build for facts in nodes for build in facts.builds if build.name == ENGINE}
    told = {(build.version, build.rpc) for build in builds.values()}
    if len(told) <= 1:
        if builds:
            version = next(iter(builds.values())).version
            yield good("llama.cpp of the machines", f"all have {version}")
        return
    words = ", ".join(f"{node}: {build.version} (RPC {build.rpc or 'none'})" for node, build in sorted(builds.items()))
    mend = "pip install --upgrade twd  # on each machine, so that all have the same llama.cpp"
    yield bad(FindingId.ENGINES_DIFFER, "llama.cpp of the machines", f"they differ: {words}", mend)


def _computers(nodes: Sequence[NodeFacts]) -> Iterable[Finding]:
    """A pool gains nothing from a second agent on one computer."""
    for told in told_once(nodes):
        yield good("machines on one computer", f"{told} (TWD_AGENT_COUNTS_ALONE=true for each where that is wrong)")


def _files(nodes: Sequence[NodeFacts]) -> Iterable[Finding]:
    """One name must mean one file on every machine."""
    by_name: dict[str, list[tuple[str, ModelFile]]] = {}
    for facts in nodes:
        for model in facts.models:
            if model.hash:
                by_name.setdefault(model.name, []).append((facts.node, model))
    for name, copies in sorted(by_name.items()):
        if len({model.hash for _, model in copies}) > 1:
            words = ", ".join(f"{node} ({model.size_bytes} bytes)" for node, model in copies)
            mend = f"sha256sum {shlex.quote(copies[0][1].path)}  # and compare with the others; copy the right one"
            yield bad(FindingId.COPIES_DIFFER, f"copies of {name}", f"they are different files: {words}", mend)


def check_fetches(leases: Iterable[ServiceLease]) -> list[Finding]:
    """Whether machines that must fetch layers can do so, as their swarm services tell."""
    found = []
    for lease in leases:
        told = lease.told(SwarmFacts)
        if told is None:
            continue
        store, name = told.store, f"layers on {lease.node}"
        if store.accepts and not store.room_bytes:
            mend = f"twd slice  # on {lease.node}; then make room there, or raise swarm.disk_gib"
            found.append(odd(FindingId.LAYERS_WITHOUT_ROOM, name, "there is no room for layers of more models", mend))
        for job in store.fetching:
            if job.problem:
                layers = f"layers {job.layers.first}-{job.layers.end} of the model {job.hash[:8]}"
                text, mend = f"{layers} did not come: {job.problem}", f"twd logs swarm  # on {lease.node}"
                found.append(odd(FindingId.LAYERS_NOT_FETCHED, name, text, mend))
    return found


def check_folders(settings: Settings) -> list[Finding]:
    """Whether the folders that the settings name are there."""
    found = []
    for folder in settings.agent.model_dirs:
        path = path_of(folder)
        if not path.is_dir():
            mend = f"mkdir -p {shlex.quote(str(path))}"
            found.append(
                odd(
                    FindingId.MODEL_FOLDER_MISSING,
                    "model folder",
                    f"agent.model_dirs names {path}, which is not there",
                    mend,
                    _maker(path),
                )
            )
    return found


def _maker(path: Path) -> Callable[[], None]:
    return lambda: path.mkdir(parents=True, exist_ok=True)


def check_programs(settings: Settings, versions: dict[str, str]) -> list[Finding]:
    """Whether the programs that the pool needs are there; `versions` is what each said when it was asked."""
    if settings.pool.engine != "llama-server":
        return []
    program = settings.agent.binaries.llama_server
    if shutil.which(str(path_of(program))) is None and shutil.which(program) is None:
        mend = "set agent.binaries.llama_server to its path, or choose another pool.engine"
        return [
            bad(
                FindingId.LLAMA_SERVER_MISSING, "llama-server", f"pool.engine wants {program}, which is not there", mend
            )
        ]
    return [good("llama-server", versions.get(program) or program)]


def check_tuning(weights: Sequence[ModelWeights], settings: Settings, machine: MachineFacts) -> list[Finding]:
    """Whether a model's settings fit this machine's memory, as `twd tune` sees it."""
    found = []
    for name, model in settings.models.items():
        info = next((one.info for one in weights if one.name == f"models.{name}"), None)
        if info is None:
            continue
        urgent = [one for one in proposals(machine, ModelNeed(name, info, model, settings.ram_reclaim)) if one.urgent]
        found += [
            odd(
                FindingId.SETTINGS_DO_NOT_FIT,
                f"settings of {name}",
                one.why,
                one.command or f"{one.key}: {one.value}  # twd tune {name}",
            )
            for one in urgent
        ]
    return found


def check_families(settings: Settings, weights: Sequence[ModelWeights], looks: Sequence[ServerProbe]) -> list[Finding]:
    """Whether servers that guess are of the family of the models that they guess for."""
    kinds = {one.name.removeprefix("models."): one.info.architecture for one in weights if one.info is not None}
    kinds |= {look.name.removeprefix("backends."): look.architecture for look in looks if look.architecture}
    drafting = {f"drafter {drafter.name or drafter.url}": drafter.for_model for drafter in settings.drafters}
    found = []
    for look in looks:
        if look.name not in drafting or not look.architecture:
            continue
        targets = [drafting[look.name]] if drafting[look.name] else list(settings.served())
        others = {name: kinds[name] for name in targets if kinds.get(name)}
        if others and look.architecture not in others.values():
            words = ", ".join(f"{name} ({kind})" for name, kind in others.items())
            text = f"its model is of the family {look.architecture}, and it guesses for {words}: few guesses will hold"
            found.append(
                odd(
                    FindingId.SERVER_OF_ANOTHER_FAMILY,
                    f"family of {look.name}",
                    text,
                    "twd bench  # tells what its guesses bring",
                )
            )
    return found
