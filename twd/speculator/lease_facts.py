"""What a speculator with a loaded model tells in its lease."""

from msgspec.structs import replace

from twd.engine.experts.facts import expert_facts
from twd.engine.pass_threads import with_threads_in_use
from twd.speculator.core.core import SpeculatorCore
from twd.speculator.drafters.registry import pace_of
from twd.speculator.targets.loaded import LoadedModel
from twd.wire.leases.base import CoreFacts, StreamedExperts
from twd.wire.leases.speculator import SpeculatorFacts


def facts_of(core: SpeculatorCore, loaded: LoadedModel, share: CoreFacts | None, *, ready: bool) -> SpeculatorFacts:
    """Returns the facts of a model that serves; `share`: what this process uses of the processor."""
    facts, pool = loaded.facts, core.drafter_pool
    return SpeculatorFacts(
        model=core.identity.model,
        ready=ready,
        core_share=with_threads_in_use(share),
        file=facts.file,
        architecture=facts.architecture,
        quantization=facts.quantization,
        parameters=facts.parameters,
        ctx_size=facts.ctx_size,
        rollback=facts.note or "rejected drafts: their cells are removed",
        parallel=facts.parallel,
        vocab=facts.vocab.hash,
        template=facts.vocab.template_hash,
        exact=loaded.exactness.exact,
        settings=loaded.exactness.settings,
        fingerprint=core.identity.fingerprint,
        sessions=len(core.sessions),
        waiting=len(core.queue),
        kv_tokens=sum(len(session.tokens) for session in list(core.sessions.values())),
        kv_tokens_max=facts.ctx_size * facts.parallel,
        drafters=[pace_of(one, pool.calibrations.get(one.name)) for one in list(pool.drafters.values())],
        cost=loaded.cost.points(),
        tool_format=loaded.tool_format,
        in_flight=loaded.limits.in_flight,
        window_max=loaded.limits.max_window,
        consensus_accepted=core.consensus.accepted,
        consensus_fallback=core.consensus.fallback,
        consensus_refused=core.consensus.refused,
        judges=loaded.limits.score_rows > 0,
        experts=_expert_facts(core, loaded),
    )


def _expert_facts(core: SpeculatorCore, loaded: LoadedModel) -> StreamedExperts | None:
    facts, drafted = expert_facts(loaded), core.drafted
    if facts is None or drafted is None:
        return facts
    return replace(facts, told=drafted.compared, told_right=drafted.right, told_unknown=drafted.unknown)
