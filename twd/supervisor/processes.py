"""Which processes an installation needs: builds process descriptions from the settings."""

import re
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial

from twd.agent.environment import environment_here
from twd.gate.members import agent_names, members_of
from twd.kit.ids import node_id
from twd.process.compute import backend_of
from twd.process.fork_server import OURS
from twd.process.health import answers
from twd.process.process_table import Need
from twd.process.supervisor import ProcessSpec
from twd.settings.model import DrafterConfig, Settings
from twd.supervisor.outside_engine import ENGINE, KEY_VARIABLE, command_line, key_of, outside, url_of

RUN = (*OURS, "run")


def wanted_processes(settings: Settings, only: Collection[str] = ()) -> list[ProcessSpec]:
    """Return all processes that `twd up` starts besides the broker; `only` limits them to these services."""
    specs = _with_names_of_their_own(
        [*_always(settings), *_speculators(settings), *_relays(settings), *_drafters(settings), *_judges(settings)]
    )
    return [spec for spec in specs if not only or spec.name.split(".")[0] in only or spec.name in only]


def serving_processes(settings: Settings, model: str) -> list[ProcessSpec]:
    """Return the processes that exist only to serve one model."""
    return [spec for spec in wanted_processes(settings) if spec.serves == model]


def served_by(specs: Iterable[ProcessSpec]) -> list[str]:
    """Return the names of the models that these processes serve."""
    servers = [spec for spec in specs if spec.name.split(".")[0] in ("speculator", "relay")]
    return list(dict.fromkeys(spec.serves for spec in servers))


def _always(settings: Settings) -> Iterator[ProcessSpec]:
    pooled = ("coordinator",) if settings.pooled else ()  # one machine alone needs no decisions
    for name in ("edge", "metrics", "agent", "swarm", *pooled):
        yield ProcessSpec(name, (*RUN, name))


def _speculators(settings: Settings) -> Iterator[ProcessSpec]:
    need = Need.ONE if len(settings.models) > 1 else Need.ALWAYS
    for model, entry in settings.models.items():
        environment = environment_here(settings, backend_of(settings, entry))
        if outside(settings):
            yield from _outside(settings, model, environment, need)
            continue
        for replica in range(entry.replicas):
            name = f"speculator.{_word(model)}" + (f".{replica + 1}" if entry.replicas > 1 else "")
            which = ("--number", str(replica)) if replica else ()
            argv = (*RUN, "speculator", "--model", model, *which)
            yield ProcessSpec(name, argv, environment=environment, serves=model, need=need)


def _outside(settings: Settings, model: str, environment: Mapping[str, str], need: Need) -> Iterator[ProcessSpec]:
    """Yield llama-server, and a relay that starts as soon as llama-server works."""
    server = f"{ENGINE}.{_word(model)}"
    key = {KEY_VARIABLE: key_of(settings)} if key_of(settings) else {}
    health = f"{url_of(settings, model)}/health"
    yield ProcessSpec(
        server,
        command_line(settings, model),
        foreign=True,
        environment={**environment, **key},
        serves=model,
        health_url=health,
        answers=partial(answers, health),
        need=need,
    )
    yield ProcessSpec(f"relay.{_word(model)}", (*RUN, "relay", "--model", model), serves=model, after=server, need=need)


def _relays(settings: Settings) -> Iterator[ProcessSpec]:
    for backend in settings.backends:
        yield ProcessSpec(f"relay.{_word(backend)}", (*RUN, "relay", "--model", backend), serves=backend, need=Need.NOT)


def _drafters(settings: Settings) -> Iterator[ProcessSpec]:
    for number, drafter in enumerate(settings.drafters):
        if drafter.head or runs_elsewhere(settings, drafter):
            continue
        name = f"drafter.{_word(drafter_name(drafter))}"
        argv = (*RUN, "drafter", "--number", str(number))
        environment = environment_here(settings, settings.engine.backend)
        yield ProcessSpec(name, argv, environment=environment, serves=drafter.for_model, need=Need.NOT)


def _judges(settings: Settings) -> Iterator[ProcessSpec]:
    """Yield the racer, the gate, and a relay for each server that only writes for the gate."""
    if settings.consensus.policy != "off":
        yield ProcessSpec("racer", (*RUN, "racer"))
    if not members_of(settings):
        return
    for name in agent_names(settings):
        yield ProcessSpec(f"relay.{_word(name)}", (*RUN, "relay", "--model", name))
    yield ProcessSpec("gate", (*RUN, "gate"))


def runs_elsewhere(settings: Settings, drafter: DrafterConfig) -> str:
    """Return why a drafter is not started beside the others; empty when it is started."""
    name = drafter_name(drafter)
    if settings.pooled and drafter.path:
        return f"drafter {name} is started by the agent of the machine that the coordinator chooses"
    here = node_id(settings.node or socket.gethostname())
    if not drafter.node or node_id(drafter.node) == here:
        return ""
    how = f" with `twd run drafter --model {drafter.path}`" if drafter.path else ""
    return f"drafter {name} is not started on {here}, since its node is {drafter.node}: start it there{how}"


def drafters_missing_here(settings: Settings) -> list[str]:
    """Return notes on drafters that nobody starts here: those of other machines, unless a coordinator places them."""
    listed = [drafter for drafter in settings.drafters if not drafter.head]
    told = [drafter for drafter in listed if not (settings.pooled and drafter.path)]
    return [text for drafter in told if (text := runs_elsewhere(settings, drafter))]


def drafter_name(drafter: DrafterConfig) -> str:
    """Return a drafter's name: its own, else its model's."""
    return drafter.name or drafter.model_name or re.sub(r".*[/\\]|\.gguf$", "", drafter.path) or "server"


def _with_names_of_their_own(specs: list[ProcessSpec]) -> list[ProcessSpec]:
    """Return the specs with unique names, as a name is also that of a log: equal names get a number."""
    seen: dict[str, int] = {}
    made: list[ProcessSpec] = []
    for spec in specs:
        count = seen[spec.name] = seen.get(spec.name, 0) + 1
        made.append(spec if count == 1 else replace(spec, name=f"{spec.name}.{count}"))
    return made


def _word(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-").lower() or "model"
