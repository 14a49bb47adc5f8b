"""Whether trained heads fit the models that they guess for."""

from collections.abc import Sequence

from twd.cli.doctor.finding_ids import FindingId
from twd.cli.doctor.findings import Finding, good, odd
from twd.gguf_tools.head_file import head_problem
from twd.gguf_tools.header import read_header
from twd.gguf_tools.inspect import GgufInfo
from twd.settings.model import DrafterConfig, Settings
from twd.settings.paths import path_of
from twd.supervisor.model_weights import ModelWeights
from twd.wire.failures import TwdError


def check_heads(settings: Settings, weights: Sequence[ModelWeights]) -> list[Finding]:
    """Whether each named head fits its model, and which models have a head of their own."""
    known = {one.name.removeprefix("models."): one.info for one in weights if one.info is not None}
    models = {name: info for name, info in known.items() if name in settings.models}
    found = [_check(drafter, models) for drafter in settings.drafters if drafter.head]
    for name, info in models.items():
        if info.head_layers:
            use = "it guesses" if settings.speculation.own_head else "`speculation.own_head` is off"
            found.append(good(f"head of {name}", f"its file has a head of its own; {use}"))
    return found


def _check(drafter: DrafterConfig, models: dict[str, GgufInfo]) -> Finding:
    path = path_of(drafter.head)
    name = f"head {path.name}"
    try:
        header = read_header(path)
    except TwdError as error:
        return odd(FindingId.HEAD_DOES_NOT_FIT, name, f"{error}; the model is served without it")
    targets = {one: info for one, info in models.items() if drafter.for_model in ("", one)}
    problems = {one: head_problem(header, info) for one, info in targets.items()}
    fits = [one for one, problem in problems.items() if not problem]
    if fits or not problems:
        return good(name, f"guesses for {', '.join(fits) or 'no model'}")
    told = "; ".join(f"{one}: {problem}" for one, problem in problems.items())
    mend = "name the head that was trained for this model"
    return odd(FindingId.HEAD_DOES_NOT_FIT, name, f"{told}; the model is served without it", mend)
