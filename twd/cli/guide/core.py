"""The way from a machine to an endpoint, as a tree of questions: facts in, answers and commands out. No I/O."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

GIB: Final = 1 << 30
ROOM_SHARE: Final = 0.85
"""Of free memory: what a model with its caches may take."""
CACHE_SHARE: Final = 1.15
"""A model needs somewhat more than its file."""
CARD_BIG: Final = 12 * GIB
SMALL: Final = 4 * GIB
DRAFT_SHARE: Final = 0.4
"""A draft model above this share of its target hardly pays."""


@dataclass(frozen=True)
class GuideCard:
    """One graphics card, and whether this engine computes on it."""

    name: str
    backend: str
    memory: int
    used: bool = True


@dataclass(frozen=True)
class GuideModel:
    """One model file of this machine."""

    name: str
    size: int
    architecture: str = ""


@dataclass(frozen=True)
class GuideFacts:
    """What the tree asks for. Bytes."""

    memory_free: int
    cores: int = 1
    avx2: bool = True
    cards: tuple[GuideCard, ...] = ()
    engine_problem: str = ""
    models: tuple[GuideModel, ...] = ()
    folders: tuple[str, ...] = ()
    """Folders in which models were looked for besides the usual one."""
    configured: bool = False
    """Whether the settings name something to serve."""
    running: bool = False
    served: tuple[str, ...] = ()
    machines: int = 0
    """How many other machines are on the bus."""
    service: bool = False
    """Whether a service of the system starts twd."""
    api: str = "http://127.0.0.1:8088"


@dataclass(frozen=True)
class GuideStep:
    """One question of the tree with this machine's answer."""

    id: str
    question: str
    answer: str
    why: str
    see: str
    """The page that tells more."""


@dataclass(frozen=True)
class GuideCommand:
    """One command to type."""

    run: str
    why: str


@dataclass(frozen=True)
class Guide:
    """The whole way."""

    hardware: str
    steps: tuple[GuideStep, ...]
    commands: tuple[GuideCommand, ...]
    """After these, the API answers."""
    check: GuideCommand
    """Shows that it does."""
    later: tuple[GuideCommand, ...]
    """What is worth doing then."""
    tell: str
    """What an agent tells the person for whom it sets twd up."""

    def document(self, facts: GuideFacts) -> dict[str, Any]:
        """What `--json` prints."""
        return {"facts": asdict(facts), **asdict(self)}


HARDWARE: Final = {
    "several": "several machines",
    "card": "a graphics card with much memory",
    "small-card": "a graphics card with little memory",
    "idle-card": "a graphics card that this engine does not use",
    "processor": "a processor without a graphics card",
    "old-processor": "an old processor (no AVX2)",
    "small": "a small machine",
}


def hardware_of(facts: GuideFacts) -> str:
    """Return the class of this machine, a key of HARDWARE."""
    used = [card.memory for card in facts.cards if card.used]
    if used:
        return "card" if max(used) >= CARD_BIG else "small-card"
    if facts.cards:
        return "idle-card"
    if facts.machines:
        return "several"
    if facts.memory_free < SMALL:
        return "small"
    return "processor" if facts.avx2 else "old-processor"


def guide(facts: GuideFacts) -> Guide:
    """Walk the tree."""
    found = [one for branch in (_engine, _card, _model, _drafter, _start) for one in branch(facts)]
    hardware = hardware_of(facts)
    return Guide(
        hardware,
        tuple(one for one in found if isinstance(one, GuideStep)),
        tuple(one for one in found if isinstance(one, GuideCommand)),
        GuideCommand(f"curl -s {facts.api}/v1/models", "lists what is served; the list must not be empty"),
        tuple(_later(facts)),
        _tell(facts, hardware),
    )


Branch = Iterator[GuideStep | GuideCommand]


def _engine(facts: GuideFacts) -> Branch:
    question = "Does the engine work?"
    if not facts.engine_problem:
        yield GuideStep("engine", question, "yes", "llama.cpp was loaded and asked", "docs/findings.md")
        return
    yield GuideStep("engine", question, "no", facts.engine_problem, "docs/findings.md#engine-broken")
    yield GuideCommand("twd engine install", "builds llama.cpp for this very processor")


def _card(facts: GuideFacts) -> Branch:
    question = "What computes?"
    idle = next((card for card in facts.cards if not card.used), None)
    if idle is not None and not any(card.used for card in facts.cards):
        why = f"{idle.name} is here, and this engine was built without {idle.backend}"
        yield GuideStep(
            "card", question, "the processor, though a card is here", why, "docs/findings.md#device-not-built"
        )
        yield GuideCommand(f"twd engine install --backend {idle.backend}", "builds llama.cpp for the card")
        return
    hardware = HARDWARE[hardware_of(facts)]
    cards = ", ".join(f"{card.name} ({card.memory / GIB:.0f} GiB)" for card in facts.cards)
    why = cards or f"{facts.cores} cores, {facts.memory_free / GIB:.0f} GiB free"
    yield GuideStep("card", question, hardware, why, "docs/old-hardware.md")


def room(facts: GuideFacts) -> int:
    """How large a model may be that this machine serves alone; layers go to cards and memory as they fit."""
    cards = sum(card.memory for card in facts.cards if card.used)
    return int((facts.memory_free + cards) * ROOM_SHARE / CACHE_SHARE)


def fitting(facts: GuideFacts) -> GuideModel | None:
    """Return the largest model that this machine holds alone."""
    return max((model for model in facts.models if model.size <= room(facts)), key=lambda one: one.size, default=None)


def _model(facts: GuideFacts) -> Branch:
    question = "Which model?"
    if facts.configured:
        yield GuideStep(
            "model", question, "the one that the settings name", "the settings name it", "docs/first-hour.md"
        )
        return
    found = fitting(facts)
    if found is not None:
        why = f"the largest of {len(facts.models)} that {room(facts) / GIB:.0f} GiB of room can hold"
        yield GuideStep("model", question, found.name, why, "docs/first-hour.md")
        folders = "".join(f" --models {shlex.quote(folder)}" for folder in facts.folders)
        yield GuideCommand(f"twd init --local --yes{folders}", "writes twd.yaml for this machine and its models")
        return
    yield from _no_model(facts, question)


def _no_model(facts: GuideFacts, question: str) -> Branch:
    """None of the models that are here fits, or there is none."""
    if facts.models:
        least = min(facts.models, key=lambda one: one.size)
        why = f"the smallest, {least.name}, needs {least.size * CACHE_SHARE / GIB:.0f} GiB"
        more = "other machines can hold a part of it" if facts.machines else "another machine, or a smaller file, helps"
        yield GuideStep("model", question, "none of these fits here", f"{why}; {more}", "docs/old-hardware.md")
    else:
        why = "no GGUF file was found in ~/.twd/models or in agent.model_dirs"
        yield GuideStep("model", question, "the demo's", why, "docs/first-hour.md")


def _drafter(facts: GuideFacts) -> Branch:
    question = "Who guesses ahead?"
    target = fitting(facts)
    if facts.configured or target is None:
        why = "drafts from the text itself need no model" if facts.configured else "the demo brings a draft model"
        yield GuideStep("drafter", question, "what is there already", why, "docs/first-hour.md")
        return
    family = [one for one in facts.models if one.architecture == target.architecture and one.name != target.name]
    small = [one for one in family if one.size <= DRAFT_SHARE * target.size]
    if small:
        why = "of the same family, and small enough to be quicker; `twd init` takes it"
        yield GuideStep("drafter", question, max(small, key=lambda one: one.size).name, why, "docs/first-hour.md")
    else:
        why = "no smaller model of the same family is here; drafts from the text itself need none"
        yield GuideStep("drafter", question, "the text itself", why, "docs/glossary.md")


def _start(facts: GuideFacts) -> Branch:
    question = "Does it run?"
    if facts.running and facts.served:
        yield GuideStep("start", question, "yes", f"it serves {', '.join(facts.served)}", "docs/first-hour.md")
        return
    if facts.running:
        yield GuideStep("start", question, "yes, without a model", "nothing is served yet", "docs/first-hour.md")
        yield GuideCommand("twd down", "so that it can start with a model")
    else:
        yield GuideStep("start", question, "no", "nothing holds this state folder", "docs/first-hour.md")
    demo = not facts.configured and fitting(facts) is None
    why = "starts with a small real model" if demo else "starts everything, and returns when it answers"
    yield GuideCommand(f"twd up -d{' --demo' if demo else ''}", why)


def _later(facts: GuideFacts) -> Iterator[GuideCommand]:
    yield GuideCommand("twd doctor", "looks at everything, and names what mends what is wrong")
    yield GuideCommand("twd bench", "measures what drafts bring here")
    if facts.models and fitting(facts) is None and not facts.configured:
        why = "for a model over several machines; then `twd token add` on this one"
        yield GuideCommand("TWD_MODE=combined TWD_BUS_HOST=0.0.0.0 TWD_POOL_HOST=0.0.0.0 twd up -d", why)
    if hardware_of(facts) == "small":
        yield GuideCommand("twd join --token-file FILE", "joins a larger machine, whose `twd token add` wrote the file")
        yield GuideCommand("twd run drafter --model FILE.gguf", "guesses ahead for its models")
    if not facts.service:
        yield GuideCommand("twd service install", "starts it at every boot, and keeps it running")


def _tell(facts: GuideFacts, hardware: str) -> str:
    models = f"{len(facts.models)} model files" if facts.models else "no model file yet"
    where = f"This machine is {HARDWARE[hardware]} with {facts.memory_free / GIB:.0f} GiB free and {models}."
    return f"{where} After the commands, any OpenAI client can use {facts.api}/v1. Drafts change speed, never text."


def lines(found: Guide) -> Sequence[str]:
    """Return the guide for people."""
    told = [f"{step.question:<22} {step.answer}  ({step.why})" for step in found.steps]
    told += ["", "type:", *(f"  {one.run:<44} # {one.why}" for one in found.commands)] if found.commands else []
    told += ["", "then:", f"  {found.check.run:<44} # {found.check.why}"]
    return [*told, *(f"  {one.run:<44} # {one.why}" for one in found.later)]
