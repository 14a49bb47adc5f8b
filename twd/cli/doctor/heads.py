"""Whether trained heads fit the models that they guess for."""

from collections.abc import Sequence

from twd.cli.common.head_option import named_head_problem, own_head_place
from twd.cli.doctor.finding_ids import FindingId
from twd.cli.doctor.findings import Finding, good, odd
from twd.gguf_tools.head_report import own_head_facts, own_head_words
from twd.gguf_tools.inspect import GgufInfo
from twd.settings.model import DrafterConfig, Settings
from twd.settings.paths import path_of
from twd.supervisor.model_weights import ModelWeights


def check_heads(settings: Settings, weights: Sequence[ModelWeights]) -> list[Finding]:
    """Whether each named head fits its model, and which models have a head of their own."""
    known = {one.name.removeprefix("models."): one.info for one in weights if one.info is not None}
    models = {name: info for name, info in known.items() if name in settings.models}
    found = [_check(drafter, models, settings) for drafter in settings.drafters if drafter.head]
    for name, info in models.items():
        own = own_head_facts(info)
        if own is not None:
            place = own_head_place(settings) if not own.problem else ""
            found.append(good(f"head of {name}", f"{own_head_words(own)}{place}"))
    return found


def _check(drafter: DrafterConfig, models: dict[str, GgufInfo], settings: Settings) -> Finding:
    path = path_of(drafter.head)
    name = f"head {path.name}"
    targets = {one: info for one, info in models.items() if drafter.for_model in ("", one)}
    problems = {one: named_head_problem(settings, path, info) for one, info in targets.items()}
    fits = [one for one, problem in problems.items() if not problem]
    if fits or not problems:
        return good(name, f"guesses for {', '.join(fits) or 'no model'}")
    told = "; ".join(f"{one}: {problem}" for one, problem in problems.items())
    alone = "leave it out, or serve the model on one machine"
    mend = alone if settings.pooled else "name the head that was trained for this model"
    return odd(FindingId.HEAD_DOES_NOT_FIT, name, f"{told}; the model is served without it", mend)
