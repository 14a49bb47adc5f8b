"""The head of a model's own file guesses on the last stage of a ring, and no word changes by that."""

import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.engine.slices.recipes import VOCABULARY, Weights, recipe
from tests.engine.test_own_head import all_knowing, write
from tests.ring.homes import Desk, described, desk, go_home, in_background, knowing, liar, struck
from tests.ring.rings import Ring, native_ring
from tests.ring.test_hybrid_rings import alone, ask
from tests.waiting import wait_until
from twd.bench.ring.lab import RingLab, RingPlan
from twd.decoding.window import VerifyResult, Window
from twd.engine.load_plan import LoadPlan
from twd.engine.loading import NativeModel, load_native
from twd.gguf_tools.head_file import FLAT, OWN_HEADS
from twd.ring.frames import SessionSpec
from twd.ring.target import RemoteSpecSampler, RingTarget
from twd.ring.trial import pipe_of
from twd.speculator.core.session import HEAD
from twd.wire.base import ModelId
from twd.wire.job import JobFinished, Sampling

CHEAP = 0.001
COUNT = 48
PROMPT = [int(token) for token in np.random.default_rng(8).integers(1, VOCABULARY - 1, 70)]
SAMPLED = Sampling(temperature=0.8, top_p=0.95, seed=11)
SAMPLINGS = pytest.mark.parametrize(
    "sampling",
    [pytest.param(Sampling(), marks=pytest.mark.thorough, id="greedy"), pytest.param(SAMPLED, id="sampled")],
)


@dataclass
class Case:
    """A model in one process, and over stages."""

    whole: NativeModel
    ring: Ring


def load(path: Path) -> NativeModel:
    plan = LoadPlan(ModelId("m"), path, ctx_size=512, parallel=2, threads=1, test=False, head=True)
    return load_native(plan, lambda share, stage: None)


@pytest.fixture(scope="module", params=[pytest.param("knows", marks=pytest.mark.thorough), "errs"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    """A head that is always right, and one that hardly ever is."""
    folder = tmp_path_factory.mktemp("head")
    one = recipe("qwen35 with a head")
    change = all_knowing if request.param == "knows" else lambda name, values: values
    path = one.write(folder / "model.gguf", change=change)
    whole = load(path)
    try:
        with native_ring(path, [0, 3, 5, 8], folder, parallel=2) as ring:
            yield Case(whole, ring)
    finally:
        whole.close()


@SAMPLINGS
def test_its_guesses_change_no_word(case: Case, sampling: Sampling) -> None:
    text = alone(case.whole, PROMPT, sampling)
    for in_flight in (1, 16):
        with desk(case.ring, vocabulary=VOCABULARY, ngram=False, in_flight=in_flight, head_ms=CHEAP) as made:
            assert ask(made, "a", PROMPT, sampling) == text
            assert checked(made) > 0


def test_beside_other_guesses(case: Case) -> None:
    text = alone(case.whole, PROMPT, SAMPLED)
    for guess in (liar(VOCABULARY, 3), knowing(text, len(PROMPT), 0.2)):
        with desk(case.ring, vocabulary=VOCABULARY, guess=guess) as made:
            assert ask(made, "a", PROMPT) == text


def test_two_sessions(case: Case) -> None:
    prompts = (PROMPT, PROMPT[::-1])
    texts = [alone(case.whole, prompt, SAMPLED) for prompt in prompts]
    with desk(case.ring, vocabulary=VOCABULARY, ngram=False) as made:
        for number, prompt in enumerate(prompts):
            made.ask(str(number), prompt, COUNT, SAMPLED)
        assert all(isinstance(end, JobFinished) for end in made.wait(2))
        assert [made.texts[str(number)] for number in range(2)] == texts


def test_the_next_turn(case: Case) -> None:
    text = alone(case.whole, PROMPT, SAMPLED)
    longer = [*PROMPT, *text[:-2], 5, *PROMPT[:9]]
    truth = alone(case.whole, longer, SAMPLED)
    with desk(case.ring, vocabulary=VOCABULARY, ngram=False) as made:
        ask(made, "a", PROMPT)
        assert ask(made, "b", longer) == truth


def test_the_last_stage_lost_midway_costs_no_word(case: Case) -> None:
    text = alone(case.whole, PROMPT, SAMPLED)
    with desk(case.ring, vocabulary=VOCABULARY, ngram=False, head_ms=CHEAP) as made:
        repairs: list[threading.Thread] = []

        def look(job: str, tokens: int) -> None:
            if tokens >= 15 and not repairs:
                case.ring.stages[-1].server.unwire("a test took it away")
                repairs.append(in_background(lambda: made.target.rewire(go_home(case.ring))))

        made.watch = look
        assert ask(made, "a", PROMPT) == text
        repairs[0].join(20.0)
        assert made.target.generation() == 2
        assert checked(made) > 0


def checked(made: Desk) -> int:
    """How many guesses of the head were verified in the only text."""
    (end,) = (event for event in made.told if isinstance(event, JobFinished))
    return sum(share.checked for share in end.stats.drafters if share.drafter == HEAD)


def test_a_head_that_knows_saves_trips(tmp_path: Path) -> None:
    def sure(name: str, values: Weights) -> Weights:
        """Weights with which the head is sure of what it knows; else it would stop early."""
        return 20 * values if name == "output.weight" else all_knowing(name, values)

    path = recipe("qwen35 with a head").write(tmp_path / "model.gguf", change=sure)
    with (
        native_ring(path, [0, 4, 8], tmp_path, parallel=1) as ring,
        desk(ring, vocabulary=VOCABULARY, ngram=False) as made,
    ):
        ask(made, "a", PROMPT, Sampling())
        (end,) = (event for event in made.told if isinstance(event, JobFinished))
        assert end.stats.passes <= COUNT // 2
        assert end.stats.taken >= COUNT // 2


QUICK = "qwen35 with a head"
"""Tried each time; the others where there is more time."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == QUICK else pytest.mark.thorough)
        for name in (*(f"{one} with a head" for one in sorted(OWN_HEADS - FLAT)), "mimo2 with three heads")
    ],
)
def test_each_guesses_as_in_one_process(name: str, tmp_path: Path) -> None:
    """So a slice has all that its head needs; the last one may have no other layers."""
    path = recipe(name).write(tmp_path / "model.gguf")
    whole = load(path)
    try:
        truth = write(whole, SAMPLED, 2, PROMPT)
    finally:
        whole.close()
    for cuts in ([0, 5, 8], [0, 8, 8]):
        with native_ring(path, cuts, tmp_path, parallel=2) as ring:
            found = guessed(ring, len(truth))
            assert [one.tokens for one in found] == [one.tokens for one in truth]
            assert [one.guesses for one in found] == [one.guesses for one in truth]


def test_it_stops_where_it_is_no_longer_sure(case: Case) -> None:
    assert [[len(one.guesses) for one in guessed(case.ring, 3, least)] for least in (0.0, 1.1)] == [[2] * 3, [1] * 3]


def guessed(ring: Ring, count: int, least: float = 0.0) -> list[VerifyResult]:
    """The first windows of a text, each with what the head guesses behind it, as `write` makes them."""
    home = go_home(ring)
    target = RingTarget(home, pipe_of(described(ring), home.bounds.credits), vocabulary=VOCABULARY)
    spec = SessionSpec(SAMPLED, SAMPLED.seed or 0, len(PROMPT))
    try:
        slot, _ = target.open(PROMPT, RemoteSpecSampler(spec))
        read = target.window_max
        target.submit([Window(slot, 100, 0, tuple(PROMPT[:read]), picks=False, committed=read)])
        tokens, drafts, found = list(PROMPT), list[int](), list[VerifyResult]()
        at = read
        for epoch in range(100, 100 + count):
            feed = tokens[at:]
            target.submit([Window(slot, epoch, at, (*feed, *drafts), committed=len(feed), guesses=2, least=least)])
            came: list[VerifyResult] = []
            wait_until(lambda came=came: came.extend(v for v in target.collect() if v.tokens) or came, "it is verified")  # type: ignore[misc]
            assert came[0].failure is None
            found.append(came[0])
            tokens += came[0].tokens
            at, drafts = len(tokens) - 1, came[0].guesses
        return found
    finally:
        target.shutdown()
        assert home.join()


@pytest.mark.thorough
@pytest.mark.slow
def test_a_last_stage_that_is_killed(tmp_path: Path) -> None:
    path = recipe("qwen35 with a head").write(tmp_path / "model.gguf", change=all_knowing)
    with RingLab(RingPlan(path, tmp_path, (0, 3, 5, 8), ctx_size=256, parallel=2)) as lab:
        with lab.ring(0.0, 1, VOCABULARY) as client:
            text = client.speak([PROMPT], COUNT, [None])[0].tokens
        with lab.ring(0.0, 16, VOCABULARY) as client:
            repair = struck(lab, client, 2, signal.SIGKILL, COUNT // 3)
            assert client.speak([PROMPT], COUNT, [lambda known: []])[0].tokens == text
            repair.join(60.0)
            assert client.target.generation_number == 2
