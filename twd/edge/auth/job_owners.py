"""Which jobs belong to a key that is limited to some models: such a key sees only its own jobs. Pure."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from twd.edge.auth.keys import ApiKey
from twd.wire.base import JobId
from twd.wire.failures import FailureCode, TwdError

REMEMBERED: Final = 20_000
"""The most jobs that are remembered for all limited keys together. A restart of the edge forgets them."""


@dataclass
class OwnedJobs:
    """The jobs of limited keys. Keys without a model limit see everything, so their jobs are not stored."""

    _key_of: OrderedDict[str, str] = field(default_factory=OrderedDict)

    def note(self, key: ApiKey | None, jobs: Iterable[JobId]) -> None:
        """Remember that a key submitted these jobs; the oldest are forgotten beyond the limit."""
        if key is None or not key.models:
            return
        for job in jobs:
            self._key_of[job] = key.name
        while len(self._key_of) > REMEMBERED:
            self._key_of.popitem(last=False)

    def may_see_job(self, key: ApiKey | None, job: str) -> bool:
        """Whether a key may see this job."""
        return key is None or not key.models or self._key_of.get(job) == key.name

    def may_see(self, key: ApiKey | None, event: Mapping[str, Any]) -> bool:
        """Whether a key may see an event: it is about one of the key's jobs, or about no job and one of its models."""
        if key is None or not key.models:
            return True
        if job := event.get("job"):
            return self.may_see_job(key, str(job))
        return "session" not in event and _model_of(event) in key.models


def _model_of(event: Mapping[str, Any]) -> object:
    facts = event.get("facts")
    return event.get("model") or (facts.get("model") if isinstance(facts, dict) else None)


def require_whole_view(key: ApiKey | None, what: str) -> None:
    """Raise FORBIDDEN if a limited key asks for information about all models."""
    if key is not None and key.models:
        text = (
            f"key {key.name!r} is limited to some models, and {what} tell of all of them; use a key without this limit"
        )
        raise TwdError(FailureCode.FORBIDDEN, text)
