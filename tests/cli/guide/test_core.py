"""The guide on played machines: a class, answers, and commands that are ones."""

import shlex

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rules.source import ROOT
from twd.cli.app import app
from twd.cli.guide.core import GIB, HARDWARE, GuideCard, GuideFacts, GuideModel, fitting, guide, lines

SMALL_MODEL = GuideModel("qwen3-1.7b", 2 * GIB, "qwen3")
MODEL = GuideModel("qwen3-8b", 8 * GIB, "qwen3")
BIG_MODEL = GuideModel("qwen3-235b", 140 * GIB, "qwen3moe")
PLAYED = {
    "a gaming machine": (
        GuideFacts(24 * GIB, 8, cards=(GuideCard("RTX 4090", "cuda", 24 * GIB),), models=(MODEL, SMALL_MODEL)),
        "card",
        ["twd init --local --yes", "twd up -d"],
    ),
    "a card that pip's engine does not use": (
        GuideFacts(24 * GIB, 8, cards=(GuideCard("RTX 3060", "cuda", 12 * GIB, used=False),), models=(MODEL,)),
        "idle-card",
        ["twd engine install --backend cuda", "twd init --local --yes", "twd up -d"],
    ),
    "an office machine": (GuideFacts(14 * GIB, 4), "processor", ["twd up -d --demo"]),
    "an old server": (
        GuideFacts(60 * GIB, 16, avx2=False, models=(BIG_MODEL, MODEL)),
        "old-processor",
        ["twd init --local --yes", "twd up -d"],
    ),
    "a small board": (GuideFacts(2 * GIB, 4, models=(MODEL,)), "small", ["twd up -d --demo"]),
    "one of many": (
        GuideFacts(30 * GIB, 8, models=(BIG_MODEL,), machines=3, running=True),
        "several",
        ["twd down", "twd up -d --demo"],
    ),
    "one that runs": (GuideFacts(30 * GIB, 8, configured=True, running=True, served=("big",)), "processor", []),
    "one with settings": (GuideFacts(30 * GIB, 8, configured=True), "processor", ["twd up -d"]),
    "one whose engine crashes": (
        GuideFacts(30 * GIB, 8, engine_problem="Illegal instruction"),
        "processor",
        ["twd engine install", "twd up -d --demo"],
    ),
}


@pytest.mark.parametrize("name", PLAYED)
def test_a_machine_gets_its_class_and_its_commands(name: str) -> None:
    facts, hardware, commands = PLAYED[name]
    found = guide(facts)
    assert found.hardware == hardware
    assert [one.run for one in found.commands] == commands


def test_every_class_of_hardware_is_played_or_explained() -> None:
    page = (ROOT / "docs/old-hardware.md").read_text("utf-8")
    for name in HARDWARE:
        assert f"`{name}`" in page


def test_a_draft_model_is_of_the_same_family() -> None:
    step = {step.id: step for step in guide(PLAYED["a gaming machine"][0]).steps}["drafter"]
    assert step.answer == SMALL_MODEL.name
    alone = GuideFacts(24 * GIB, models=(MODEL, GuideModel("llama", GIB, "llama")))
    assert {step.id: step for step in guide(alone).steps}["drafter"].answer == "the text itself"


def test_a_folder_with_an_odd_name_is_quoted() -> None:
    facts = GuideFacts(24 * GIB, models=(MODEL,), folders=("/data/my models; rm",))
    assert guide(facts).commands[0].run == "twd init --local --yes --models '/data/my models; rm'"


cards = st.builds(
    GuideCard, st.just("card"), st.sampled_from(["cuda", "vulkan"]), st.integers(0, 80 * GIB), st.booleans()
)
models = st.builds(GuideModel, st.sampled_from(["a", "b", "c"]), st.integers(1, 400 * GIB), st.sampled_from(["x", "y"]))
facts_of_any_machine = st.builds(
    GuideFacts,
    st.integers(0, 512 * GIB),
    st.integers(1, 256),
    st.booleans(),
    st.lists(cards, max_size=3).map(tuple),
    st.sampled_from(["", "it ended with -4"]),
    st.lists(models, max_size=4).map(tuple),
    configured=st.booleans(),
    running=st.booleans(),
    served=st.sampled_from([(), ("big",)]),
    machines=st.integers(0, 3),
    service=st.booleans(),
)


@given(facts_of_any_machine)
def test_the_way_ends_with_something_that_serves(facts: GuideFacts) -> None:
    found = guide(facts)
    commands = [one.run for one in found.commands]
    assert [step.id for step in found.steps] == ["engine", "card", "model", "drafter", "start"]
    if facts.running and facts.served:
        assert not any(run.startswith("twd up") for run in commands)
    else:
        assert commands[-1].startswith("twd up -d")
    if commands and "--demo" not in commands[-1] and commands[-1].startswith("twd up"):
        assert facts.configured or (fitting(facts) is not None and any("twd init" in run for run in commands))
    assert all(step.why and step.answer for step in found.steps)
    assert len(list(lines(found))) > len(found.steps)


@given(facts_of_any_machine)
def test_every_command_is_one_and_every_page_is_there(facts: GuideFacts) -> None:
    found = guide(facts)
    for one in (*found.commands, *found.later):
        words = [word for word in shlex.split(one.run) if not word.startswith("TWD_")]
        assert words[0] == "twd"
        command = app.get_command(click.Context(app), words[1])
        assert command is not None
        if isinstance(command, click.Group):
            command = command.get_command(click.Context(command), words[2])
            assert command is not None
            words = words[1:]
        command.make_context(words[1], words[2:])
    for step in found.steps:
        assert (ROOT / step.see.partition("#")[0]).is_file()
