"""Drafters of this speculator on the bus: they attach, leave, and are cut off. A new one is tried."""

from collections.abc import Collection

from twd.speculator.drafters.calibration import DrafterTrials
from twd.speculator.drafters.drafter_link import AttachedDrafter
from twd.speculator.drafters.registry import DrafterRegistry, refusal, taken_for
from twd.speculator.runner import Post
from twd.speculator.targets.loaded import LoadedModel
from twd.wire.base import InstanceId, ModelId, NodeId
from twd.wire.draft import DrafterAttached, DrafterChecked, share_device


class DrafterAttachments:
    """Keeps the core's drafters equal to those that are there."""

    def __init__(self, model: ModelId, owner: InstanceId, post: Post) -> None:
        """`owner`: the name of this speculator, which owns the trial jobs."""
        self.trials = DrafterTrials(model, owner)
        self._registry = DrafterRegistry()
        self._post = post

    def __len__(self) -> int:
        return len(self._registry)

    @property
    def here(self) -> set[InstanceId]:
        """The drafters whose lease is there."""
        return self._registry.here

    def offered(self, event: DrafterAttached, loaded: LoadedModel, node: NodeId) -> DrafterChecked | None:
        """Attach a drafter that offers itself; a new one waits for its trial. Returns why its drafts cannot be used, or
        None. `node`: the machine of the target."""
        refused = refusal(event, loaded.facts)
        if refused is not None:
            return refused
        beside = share_device(node, loaded.limits.device, event)
        drafter = taken_for(event, loaded.facts, beside=beside, step_ms=loaded.cost.ms(1))
        new = self._registry.take(drafter)
        self._attach(drafter)
        if new:
            self.trials.want(drafter.name)
        return None

    def _attach(self, drafter: AttachedDrafter) -> None:
        self._post(lambda core, now: core.attach(drafter, now))

    def left(self, drafter: InstanceId) -> None:
        """A drafter said that it leaves. Names of other services are ignored."""
        self._registry.left(drafter)
        self._detach(drafter)

    def lost(self, drafter: InstanceId) -> None:
        """A drafter's lease is gone: it is attached again when the lease is back."""
        self._registry.lost(drafter)
        self._detach(drafter)

    def _detach(self, drafter: InstanceId) -> None:
        self.trials.spare(drafter)
        self._post(lambda core, now: core.detach(drafter, now))

    def attach_returned(self, alive: Collection[InstanceId]) -> None:
        """Attach the drafters again that were lost and have a lease now."""
        for drafter in self._registry.returned(alive):
            self._attach(drafter)
