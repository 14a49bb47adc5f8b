"""Reads the settings again while an installation runs: models come and go, and no job is lost.

A model that leaves finishes its jobs first. What only a restart can change is named, and waits for the next start.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from twd.kit.messages.heard_events import stamp
from twd.kit.tasks import heard
from twd.settings.model import ModelConfig, Settings
from twd.supervisor.service import Wish
from twd.wire.base import NodeId
from twd.wire.failures import TwdError
from twd.wire.life import ChangeAnswered, ChangeStep, ChangeTold, ModelUnwanted, ModelWanted

CHANGE_S: Final = 2400.0
"""Seconds for one change: the jobs of a leaving model, and a large model that loads."""
LATER: Final = "takes effect at the next start"


@dataclass(frozen=True)
class ReloadPlan:
    """What the new settings mean for an installation that runs."""

    stops: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    """Sections of the settings that only a restart can change."""

    @property
    def words(self) -> str:
        """What is done, in one line."""
        return "settings read again" + ("" if self.stops or self.starts or self.later else ": nothing has changed")


def plan_reload(old: Settings, new: Settings, served: Sequence[str]) -> ReloadPlan:
    """Compare settings. `old`: as they were last read; `served`: the models that are served now."""
    now = {name for name, model in new.models.items() if model.serve}
    before = {name for name, model in old.models.items() if model.serve}
    changed = {name for name in now & before if _essence(old.models[name]) != _essence(new.models[name])}
    stops = tuple(name for name in served if name in (before - now) | changed)
    starts = tuple(name for name in new.models if name in (now - before) | changed)
    sections = [field for field in Settings.__struct_fields__ if field != "models"]
    later = [field for field in sections if getattr(old, field) != getattr(new, field)]
    moved = ["models.default"] if _default(old) != _default(new) else []
    return ReloadPlan(stops, starts, (*later, *moved))


def _essence(model: ModelConfig) -> ModelConfig:
    """A model without what says nothing of its processes."""
    return msgspec.structs.replace(model, serve=True, default=False)


def _default(settings: Settings) -> str:
    return next((name for name, model in settings.models.items() if model.default), "")


class ServesModels(Protocol):
    """Something that changes which models are served; ModelLife does."""

    @property
    def models(self) -> list[str]:
        """Names of the models that are served, or are loading."""
        ...

    def learn(self, models: dict[str, ModelConfig]) -> None:
        """From now on these entries count."""

    async def begin(self, wish: Wish) -> ChangeAnswered:
        """Check a request and begin to carry it out; raises TwdError where that is not possible."""
        ...


class SettingsReload:
    """Reads settings again, and carries out what they mean. One at a time."""

    def __init__(self, read: Callable[[], Settings], known: Settings, node: NodeId) -> None:
        """`read` returns the settings, or raises TwdError. `known`: as they were read at the start."""
        self._read = read
        self._known = known
        self._node = node
        self._ends: dict[str, ChangeTold] = {}
        self._news = asyncio.Event()

    def told(self, event: ChangeTold) -> None:
        """A change of models came this far."""
        if event.step in (ChangeStep.DONE, ChangeStep.FAILED):
            self._ends[event.change] = event
            self._news.set()

    async def carry_out(self, life: ServesModels) -> tuple[bool, str]:
        """Read and compare the settings, and change what can be changed. Return whether all went well, and words."""
        try:
            new = await asyncio.to_thread(self._read)
        except TwdError as error:
            return False, f"the settings cannot be used, so nothing has changed: {_one_line(str(error))}"
        self._ends.clear()
        plan = plan_reload(self._known, new, life.models)
        done: list[str] = []
        problems: list[str] = []
        before = {name: self._known.models[name] for name in plan.stops if name in plan.starts}
        for name in plan.stops:
            problems += await self._change(life, ModelUnwanted(node=self._node, model=name), done, f"without {name}")
        life.learn({name: new.models[name] for name in plan.starts})
        for name in plan.starts:
            failed = await self._change(life, ModelWanted(node=self._node, model=name), done, f"with {name}")
            if failed and name in before:
                life.learn({name: before[name]})
                failed += await self._change(life, ModelWanted(node=self._node, model=name), done, f"{name} as before")
            problems += failed
        self._known = new
        later = [f"{', '.join(plan.later)} {LATER}"] if plan.later else []
        return not problems, "; ".join([plan.words, *done, *later, *problems])

    async def _change(self, life: ServesModels, wish: Wish, done: list[str], words: str) -> list[str]:
        """Carry out one wish; return what went wrong."""
        stamped = stamp(wish, f"supervisor.{self._node}")
        try:
            answer = await life.begin(stamped)
            if answer.change:
                async with asyncio.timeout(CHANGE_S):
                    await self._end_of(answer.change)
        except TwdError as error:
            return [f"{wish.model}: {error}"]
        except TimeoutError:
            return [f"{wish.model}: not done within {CHANGE_S:g} s"]
        told = self._ends.get(answer.change)
        if told is not None and told.failure is not None:
            return [f"{wish.model}: {told.failure.message}"]
        done.append(words)
        return []

    async def _end_of(self, change: str) -> None:
        while change not in self._ends:
            self._news.clear()
            await heard(self._news, 1.0)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]
