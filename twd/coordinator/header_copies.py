"""Headers of models whose files are on other machines alone: the swarm service here fetches them, to plan with."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from twd.bus.base import BusError, LeaseEntry
from twd.coordinator.core.observation import speculators
from twd.coordinator.core.processes import WantedModel
from twd.wire.base import NodeId
from twd.wire.node import ModelFile, read_node
from twd.wire.swarm import PullAnswered, PullWanted

AGENT_KEYS: Final = "agent."
Ask = Callable[[PullWanted], Awaitable[object]]


class HeaderCopy(NamedTuple):
    """The headers of a model: a path that reads like the model's own, and what its machines tell of the whole."""

    path: Path
    file: ModelFile


def listed(model: WantedModel, entries: Sequence[LeaseEntry], here: NodeId) -> ModelFile | None:
    """Return what machines tell of a model that cannot be read here, and that another machine serves; None if nobody
    does, or if several files have that name."""
    if not any(facts.served == model.name and lease.node != here for lease, facts in speculators(entries)):
        return None
    told = (read_node(entry.value, entry.key) for entry in entries if entry.key.startswith(AGENT_KEYS))
    models = (known for facts in told if facts is not None for known in facts.models)
    by_hash = {known.hash: known for known in models if known.name == model.listed_as and known.hash}
    return by_hash.popitem()[1] if model.listed_as and len(by_hash) == 1 else None


class HeaderCopies:
    """Asks the swarm service of this machine."""

    def __init__(
        self, here: NodeId, entries: Callable[[], Awaitable[Sequence[LeaseEntry]]], ask: Ask, log: logging.Logger
    ) -> None:
        """`entries`: reads all leases."""
        self._here, self._entries, self._ask, self._log = here, entries, ask, log

    async def fetch(self, model: WantedModel) -> HeaderCopy | None:
        """Return the headers of a model that other machines have alone; None where they do not come."""
        try:
            file = listed(model, await self._entries(), self._here)
            if file is None:
                return None
            wish = PullWanted(node=self._here, hash=file.hash, file=f"{file.name}.gguf", headers=True)
            answer = await self._ask(wish)
        except BusError as error:
            self._log.info("no swarm service here fetches the headers of %s: %s", model.name, error)
            return None
        if not isinstance(answer, PullAnswered) or answer.failure is not None or not answer.done:
            why = answer.failure.message if isinstance(answer, PullAnswered) and answer.failure is not None else "?"
            self._log.warning("the headers of %s do not come: %s", file.name, why)
            return None
        return HeaderCopy(Path(answer.path), file)
