"""Every command that the README prints: run as it stands there, or with the reason why not."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from tests.measurements import leave_measurements, take_measurements
from tests.model_fixtures import model_cache
from tests.readme.machines import Machine, two_machines, until_it_says
from tests.readme.printed import block_commands, spoken_commands, twd_arguments, yaml_block
from tests.waiting import wait_until
from twd.cli.app import app
from twd.engine.demo_model import demo_model
from twd.supervisor.demo import DRAFT as DEMO_DRAFT
from twd.supervisor.demo import TARGET as DEMO_TARGET

__all__ = ["model_cache"]

TOKEN = "twd token add > join.txt"
JOIN = "twd join --token-file join.txt"
LET_IN = "TWD_BUS_HOST=0.0.0.0 twd up -d"
DRAFTER = "twd run drafter --model ~/models/qwen3-1.7b-q8_0.gguf"
POOL = "TWD_MODE=combined TWD_BUS_HOST=0.0.0.0 TWD_POOL_HOST=0.0.0.0 twd up -d"
LENDS = "TWD_POOL_HOST=0.0.0.0 TWD_AGENT_MODEL_DIRS=~/models twd up -d agent"
CHANGES = ("twd swap MODEL", "twd load MODEL", "twd stop MODEL", "twd start -m MODEL")
PULL = (
    "twd swarm pull ~/models --manifest http://first:9080/manifest --peer http://first:9080 --token SECRET --port 9080"
)
CALIBRATE = "twd gate calibrate prompts.jsonl --max-error 0.05 --confidence 0.95"
MOE = "needs a mixture of experts; tests/cli/moe runs it on tiny ones"
SWARM = "tests/cli/swarm runs it with ports of its own"
HUB = "tests/cli/hub runs it at a hub on loopback"
SERVICE = "wants a service manager; tests/cli/service has a played one, and the protocol over a real socket"
VERSIONS = "wants several versions; tests/setup/versions has them, with real processes"
NOT_RUN = {
    "twd upgrade --from WHEELS": VERSIONS,
    "twd upgrade --all --from WHEELS": "wants three machines with versions; tests/cli/upgrade has them",
    "twd rollback": VERSIONS,
    "twd service install": SERVICE,
    "twd service status": SERVICE,
    "twd service reload": SERVICE,
    "twd service uninstall": SERVICE,
    "git clone <this repository> twd && cd twd": "the repository has no one address",
    "make demo": "sets up the environment in which the tests run; `twd up --demo` is in tests/e2e",
    "make test": "it is this",
    "twd moe summary FILE": MOE,
    "twd moe profile -m FILE": MOE,
    "twd moe plan FILE": MOE,
    "twd moe fuse IN OUT": MOE,
    "twd pull qwen3:8b-q4_k_m": HUB,
    "twd pull org/repo:Q4_K_M --dir ~/models": HUB,
    "twd pull ollama://llama3.2:1b": HUB,
    "twd pull https://example.org/m.gguf": HUB,
    "twd inspect qwen3:32b-q4_k_m --plan": HUB,
    "twd moe bench": "asks for minutes; tests/cli/moe/test_bench.py has it with short answers",
    "twd up --demo --moe": "writes a file of 700 MB; tests/speculator/targets/test_streamed.py serves such a one",
    "twd swarm seed big.gguf --token SECRET": SWARM,
    PULL: SWARM,
    CALIBRATE: "asks hundreds of prompts; tests/gate has its parts",
    "twd up --demo --ring 3 --bare 2": "tests/e2e/test_fetched_layers.py has it",
    "twd bench": "asks for minutes; tests/cli/bench/test_bench_command.py has it with short answers",
}
PLAYED = "twd up --demo --ring 2 --link-rtt 20"
RUN = {
    TOKEN,
    JOIN,
    LET_IN,
    DRAFTER,
    POOL,
    LENDS,
    PLAYED,
    "twd top",
    "twd up",
    *(line for line in CHANGES if line != "twd stop MODEL"),
}
SPLIT = {"TWD_POOL_SPLIT": "even"}
"""So small a model would stay on one machine: the way costs more than the other's cores bring."""
TARGET = "qwen3-32b-q4_k_m.gguf"
OTHER = "qwen3-1.7b-q8_0.gguf"


def test_every_command_is_run_or_has_a_reason() -> None:
    assert set(block_commands()) == RUN | set(NOT_RUN)
    assert "twd stop MODEL" in spoken_commands()


@pytest.mark.parametrize("command", sorted({*block_commands(), *spoken_commands()}))
def test_every_command_of_twd_is_one(command: str) -> None:
    arguments = twd_arguments(command)
    if arguments is None:
        assert command in NOT_RUN
        return
    name, *rest = arguments
    found = app.get_command(click.Context(app), name)
    assert found is not None
    found.make_context(name, rest)  # raises where an option or an argument is none


@pytest.fixture
def machines(tmp_path: Path, model_cache: Path) -> Iterator[tuple[Machine, Machine]]:
    """Two of them, with the files that the README names; the first has its settings, too."""
    with two_machines(tmp_path) as (first, second):
        for machine in (first, second):
            take_measurements(machine.folder / ".twd", model_cache)
            for name in (TARGET, OTHER):
                (machine.folder / "models" / name).symlink_to(demo_model(model_cache))
        (first.folder / "twd.yaml").write_text(yaml_block("# twd.yaml").partition("drafters:")[0])
        yield first, second
        for machine in (first, second):
            leave_measurements(machine.folder / ".twd", model_cache)


def let_in(first: Machine, second: Machine) -> None:
    first.run(TOKEN)
    shutil.copy(first.folder / "join.txt", second.folder)
    second.run(JOIN)


def both_make_text(first: Machine) -> bool:
    """Whether a text comes from layers on both machines."""
    text = "".join(choice["text"] for choice in answer(first).get("choices", []))
    return bool(text.strip()) and "second-machine" in str(first.fetch("/v1/twd/status")["pools"])


def answer(first: Machine) -> Any:
    prompt = "One two three four five six seven"
    return first.fetch("/v1/completions", model="default", prompt=prompt, max_tokens=12, temperature=0)


@pytest.mark.thorough
@pytest.mark.e2e
@pytest.mark.slow
def test_a_drafter_on_another_machine(machines: tuple[Machine, Machine]) -> None:
    first, second = machines
    first.run(LET_IN)
    let_in(first, second)
    second.start(DRAFTER)

    def far_drafts_were_checked() -> bool:
        drafters = answer(first)["twd"]["drafters"]
        return any(".second-machine." in one["drafter"] and one["checked"] for one in drafters)

    wait_until(far_drafts_were_checked, "drafts of the second machine are checked", 120)


@pytest.mark.thorough
@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ring", "rpc"])
def test_a_model_on_two_machines(machines: tuple[Machine, Machine], engine: str) -> None:
    first, second = machines
    first.run(POOL, TWD_POOL_ENGINE=engine, **SPLIT)
    let_in(first, second)
    second.run(LENDS)

    wait_until(lambda: both_make_text(first), "a text comes from layers on both machines", 240)


@pytest.mark.thorough
@pytest.mark.e2e
@pytest.mark.slow
def test_a_machine_without_a_copy_fetches_its_layers(machines: tuple[Machine, Machine]) -> None:
    first, second = machines
    for name in (TARGET, OTHER):
        (second.folder / "models" / name).unlink()
    first.run(POOL, **SPLIT)
    let_in(first, second)
    second.run(LENDS)
    wait_until(lambda: both_make_text(first), "a text comes from layers on both machines", 240)
    assert not list((second.folder / "models").iterdir())
    assert "parts of 1 model" in second.run("twd slice")


@pytest.mark.thorough
@pytest.mark.e2e
@pytest.mark.slow
def test_other_models_while_it_runs(machines: tuple[Machine, Machine]) -> None:
    first, _ = machines
    log = first.start("twd up")
    until_it_says(log, "ready in")
    served = []
    for command, model in zip(CHANGES, (OTHER, TARGET, OTHER, OTHER), strict=True):
        first.run(command.replace("MODEL", f"~/models/{model}"))
        listed = first.fetch("/v1/models")["data"]
        served.append({card["id"] for card in listed if card["twd"]["ready"] and "alias_of" not in card["twd"]})
    small = OTHER.removesuffix(".gguf")
    assert served == [{small}, {"big", small}, {"big"}, {"big", small}]


@pytest.mark.thorough
@pytest.mark.e2e
@pytest.mark.slow
def test_a_ring_that_is_played(machines: tuple[Machine, Machine], model_cache: Path) -> None:
    first, _ = machines
    (first.folder / "twd.yaml").unlink()
    cache = first.folder / ".twd" / "cache"
    for kind in (DEMO_TARGET, DEMO_DRAFT):
        made = demo_model(model_cache, kind)
        (cache / made.name).symlink_to(made)
    until_it_says(first.start(PLAYED), "ready in")
    assert answer(first)["choices"][0]["text"].strip()
    assert "node-2" in first.run("twd top")
