"""The mode of a request: from the request, its model's name, the routes, or the server's default. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from twd.settings.model import GateRoute
from twd.wire.base import ModelId
from twd.wire.judging import CONSENSUS, GATE

SUFFIXES: Final = {"gate": GATE, "consensus": CONSENSUS}
"""Modes that may change the text, and the suffix of their model names."""
GATE_ALIAS: Final = "gate"


@dataclass(frozen=True, slots=True)
class Chosen:
    """A mode, and whether the client asked for it by name."""

    mode: str
    asked: bool = False


def split(name: str) -> tuple[str, str]:
    """A model's name without the mode suffix, and that mode; the mode is empty if there is none."""
    for mode, suffix in SUFFIXES.items():
        if name.endswith(suffix) and len(name) > len(suffix):
            return name.removesuffix(suffix), mode
    return ("default", GATE_ALIAS) if name == GATE_ALIAS else (name, "")


def full_name(model: ModelId, mode: str) -> ModelId:
    """The name under which a model is served in a mode."""
    return ModelId(f"{model}{SUFFIXES.get(mode, '')}")


def routed(routes: Iterable[GateRoute], key: str, max_tokens: int | None) -> str:
    """The mode of the first route that matches; empty if none does."""
    for route in routes:
        asked = max_tokens or 0
        if route.key not in ("", key) or asked < route.max_tokens_from:
            continue
        if route.max_tokens_to and not 0 < asked <= route.max_tokens_to:
            continue
        return route.mode
    return ""


def choose(wish: str | None, named: str, route: str, house: str) -> Chosen:
    """The mode: first what the request says, then its model's name, then the routes, then the server's default."""
    if wish:
        return Chosen(wish, asked=True)
    if named:
        return Chosen(named, asked=True)
    return Chosen(route or house)


def house_mode(setting: str) -> str:
    """The mode of requests for the `mode` of the settings. A pool only says how a model is loaded; it is not a mode of
    requests.
    """
    return {"combined": "speculate"}.get(setting, setting.removeprefix("combined+"))
