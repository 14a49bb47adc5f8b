"""How a request is served: by what it asks for, by its model's name, by the house's routes. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from twd.settings.model import GateRoute
from twd.wire.base import ModelId
from twd.wire.judging import CONSENSUS, GATE

SUFFIXES: Final = {"gate": GATE, "consensus": CONSENSUS}
"""Modes that may change text; each is a name of its own."""
GATE_ALIAS: Final = "gate"


@dataclass(frozen=True, slots=True)
class Chosen:
    """A mode, and whether somebody asked for it by name."""

    mode: str
    asked: bool = False


def split(name: str) -> tuple[str, str]:
    """A model's name without the mode behind it, and that mode, if there is one."""
    for mode, suffix in SUFFIXES.items():
        if name.endswith(suffix) and len(name) > len(suffix):
            return name.removesuffix(suffix), mode
    return ("default", GATE_ALIAS) if name == GATE_ALIAS else (name, "")


def full_name(model: ModelId, mode: str) -> ModelId:
    """The name under which a model is served in a mode."""
    return ModelId(f"{model}{SUFFIXES.get(mode, '')}")


def routed(routes: Iterable[GateRoute], key: str, max_tokens: int | None) -> str:
    """The mode of the first route that fits; empty where none does."""
    for route in routes:
        asked = max_tokens or 0
        if route.key not in ("", key) or asked < route.max_tokens_from:
            continue
        if route.max_tokens_to and not 0 < asked <= route.max_tokens_to:
            continue
        return route.mode
    return ""


def choose(wish: str | None, named: str, route: str, house: str) -> Chosen:
    """The request's own word counts most, then its model's name, then the house's routes, then the house."""
    if wish:
        return Chosen(wish, asked=True)
    if named:
        return Chosen(named, asked=True)
    return Chosen(route or house)


def house_mode(setting: str) -> str:
    """What `mode` in the settings means for requests; a pool is how a model is loaded, and no mode of requests."""
    return {"combined": "speculate"}.get(setting, setting.removeprefix("combined+"))
