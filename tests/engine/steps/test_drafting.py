"""A drafter with the native loop guesses what it guesses without it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.drafter.cores import opened
from tests.engine.steps.test_picking import samplings
from tests.engine.tiny_models import write_llama
from twd.decoding.sampler import SamplerFactory
from twd.decoding.turns import WaitForPost
from twd.decoding.window import VerifyResult
from twd.drafter.core import DrafterCore
from twd.drafter.draft import DraftRules
from twd.drafter.native import judge
from twd.drafter.runner import DraftRunner
from twd.engine.context import Context, ContextSettings
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.engine.steps import binding
from twd.engine.target import LocalTarget
from twd.wire.base import InstanceId
from twd.wire.draft import DraftGranted, DraftProposed
from twd.wire.job import Sampling

pytestmark = pytest.mark.model
Told = dict[str, list[tuple[int, list[int]]]]


class CountedTarget(LocalTarget):
    """Counts how often its owner waits for it."""

    calls = 0

    def collect(self) -> list[VerifyResult]:
        self.calls += 1
        return super().collect()


class Drafting:
    """A drafter without a bus: whatever is posted is worked off until it rests."""

    def __init__(self, model: LoadedGguf, beside: bool, copies: bool) -> None:
        context = Context(model, ContextSettings(ctx_size=96, parallel=3, threads=1))
        self.target = CountedTarget(context)
        self.samplers = SamplerFactory(model.vocab)
        self.beside = beside
        cost = (lambda rows: 1.0 + 0.01 * rows) if copies else None
        self.core = DrafterCore(InstanceId("d"), 3, 96, cost, window_max=16)
        self.core.token_ms = 0.001
        self.told: list[DraftProposed] = []
        self.runner = DraftRunner(
            self.core, self.target, judge, self.told.extend, failed=_raise, lost=lambda: None, clock=lambda: 0.0
        )
        self._turns = self.runner.turns()

    def rest(self) -> None:
        for wait in self._turns:
            if isinstance(wait, WaitForPost):
                return

    def begin(self, name: str, prompt: list[int], sampling: Sampling, seed: int, credit: int) -> None:
        sampler = self.samplers.sampler(sampling, seed, prompt_len=len(prompt))
        event = opened(prompt, credit, name)
        self.runner.post(lambda core: core.open(event, DraftRules(sampler), self.beside))
        self.rest()

    def accept(self, name: str, right: int, then: int) -> None:
        """`right` of the drafts are taken, and then comes another token."""
        draft = next(one for one in self.core.drafts.values() if one.session == name)
        tokens = [*[guess.token for guess in draft.guesses][:right], then]
        at, job = len(draft.accepted), draft.job
        self.runner.post(lambda core: core.accept(job, at, tokens))
        grant = DraftGranted(session=draft.session, drafter=self.core.name, credit=draft.credit)
        self.runner.post(lambda core: core.grant(grant))
        self.rest()

    def guesses(self) -> dict[str, list[list[int]]]:
        """Main line and branches of each session."""
        return {
            draft.session: [
                [guess.token for guess in draft.guesses],
                *([branch.index, *(guess.token for guess in branch.guesses)] for branch in draft.branches),
            ]
            for draft in self.core.drafts.values()
        }


def _raise(error: BaseException) -> None:
    raise error


@pytest.fixture(scope="module")
def lively(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedGguf]:
    path: Path = write_llama(tmp_path_factory.mktemp("lively") / "lively.gguf", lively=8.0)
    with LoadedGguf.load(ModelLoadOptions(path)) as model:
        yield model


steps = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 8), st.integers(0, 63)), max_size=6)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    sampling=samplings,
    prompts=st.lists(st.lists(st.integers(0, 63), min_size=1, max_size=20), min_size=1, max_size=3),
    seed=st.integers(0, 2**32),
    credit=st.integers(1, 20),
    beside=st.booleans(),
    copies=st.booleans(),
    accepted=steps,
)
def test_the_same_guesses_with_and_without_the_loop(
    lively: LoadedGguf,
    loop_library: object,
    sampling: Sampling,
    prompts: list[list[int]],
    seed: int,
    credit: int,
    beside: bool,
    copies: bool,
    accepted: list[tuple[int, int, int]],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(binding, "library", lambda: loop_library)
        binding.steps_available.cache_clear()
        native = Drafting(lively, beside, copies)
    patch.setattr("twd.engine.target.steps_available", lambda: False)
    python = Drafting(lively, beside, copies)
    patch.undo()
    assert (native.target.runs_steps, python.target.runs_steps) == (True, False)
    try:
        for drafting in (native, python):
            for number, prompt in enumerate(prompts):
                drafting.begin(f"s{number}", prompt, sampling, seed + number, credit)
        assert native.guesses() == python.guesses()
        for place, right, then in accepted:
            for drafting in (native, python):
                drafting.accept(f"s{place % len(prompts)}", right, then)
            assert native.guesses() == python.guesses()
        assert native.target.calls <= python.target.calls
    finally:
        native.target.shutdown()
        python.target.shutdown()
        binding.steps_available.cache_clear()


def test_a_whole_run_is_one_call(lively: LoadedGguf, loop: None) -> None:
    drafting = Drafting(lively, beside=True, copies=False)
    drafting.begin("s", [5, 9, 2], Sampling(temperature=0.1), 3, credit=16)
    (draft,) = drafting.core.drafts.values()
    assert len(draft.guesses) > 1
    assert drafting.target.calls == 1
    drafting.target.shutdown()


def test_what_is_posted_ends_a_run(lively: LoadedGguf, loop: None) -> None:
    """A rollback overtakes: the halt is set as soon as something is posted, and cleared before that is read."""
    drafting = Drafting(lively, beside=True, copies=False)
    drafting.runner.post(lambda core: None)
    set_at_once = drafting.target.halt.is_set
    drafting.rest()
    assert (set_at_once, drafting.target.halt.is_set) == (True, False)
    drafting.target.shutdown()
