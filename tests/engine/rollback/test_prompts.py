"""Prompts are reused by models that keep a running state: from checkpoints along them, with the same tokens."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from tests.engine.driving import Greedy, generate, no_drafts, same_logits, start
from tests.engine.tiny_hybrids import write_jamba, write_lfm2
from tests.engine.tiny_models import write_mamba
from twd.engine.context import Context, ContextSettings
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.engine.rollback.undo import StateUndo
from twd.engine.target import LocalTarget

MARK = 63
SYSTEM = [MARK, *[5 + at % 40 for at in range(200)]]
QUESTION = [MARK, *[7 + at % 31 for at in range(100)]]
CHAT = [*SYSTEM, *QUESTION, MARK, 1, 2]
BYTES = 64 * 2**20


@pytest.fixture(scope="module", params=[write_mamba, write_lfm2, write_jamba])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedGguf]:
    with LoadedGguf.load(ModelLoadOptions(request.param(tmp_path_factory.mktemp("tiny") / "tiny.gguf"))) as loaded:
        yield loaded


@contextmanager
def opened(model: LoadedGguf, parallel: int = 1, bytes_max: int = BYTES) -> Iterator[LocalTarget]:
    with Context(model, ContextSettings(ctx_size=600, parallel=parallel, threads=1, snapshots=4)) as context:
        yield LocalTarget(context, undo=StateUndo(context, bytes_max, frozenset({MARK})))


def cached_of(target: LocalTarget, prompt: Sequence[int]) -> int:
    slot, cached = target.open(prompt, Greedy())
    target.close(slot)
    return cached


def logits_of(target: LocalTarget, prompt: Sequence[int]) -> tuple[list[int], Greedy]:
    sampler = Greedy(record=True)
    return generate(target, prompt, 12, no_drafts, sampler), sampler


def test_the_next_turn_of_a_chat_begins_where_the_last_answer_ended(model: LoadedGguf) -> None:
    with opened(model) as target:
        text = generate(target, CHAT, 20)
        assert cached_of(target, [*CHAT, *text[:19], MARK, 9, 9]) == len(CHAT) + 19


def test_an_answer_that_is_written_otherwise_in_the_next_prompt_costs_itself_alone(model: LoadedGguf) -> None:
    with opened(model) as target:
        generate(target, CHAT, 20)
        following = [*CHAT[:-1], 4, 4, 4, MARK, 9, 9]
        assert cached_of(target, following) == len(SYSTEM) + len(QUESTION)


@pytest.mark.parametrize("parallel", [1, 2])
def test_an_edited_message_begins_at_its_border_with_the_same_tokens(model: LoadedGguf, parallel: int) -> None:
    edited = [*SYSTEM, MARK, *[9 + at % 20 for at in range(80)], MARK, 1, 2]
    with opened(model) as fresh:
        truth, plain = logits_of(fresh, edited)
    with opened(model, parallel) as target:
        busy = start(target, CHAT, Greedy())[0] if parallel > 1 else -1
        generate(target, CHAT, 20)
        assert cached_of(target, edited) == len(SYSTEM)
        found, seen = logits_of(target, edited)
        assert found == truth
        assert same_logits(plain.seen, seen.seen)
        target.close(busy)


def test_a_running_session_lends_its_beginning_to_another(model: LoadedGguf) -> None:
    with opened(model) as fresh:
        truth, plain = logits_of(fresh, CHAT)
    with opened(model, parallel=2) as target:
        slot, out = start(target, CHAT, Greedy())
        other, cached = target.open(CHAT, Greedy())
        assert other != slot
        assert cached >= len(SYSTEM)
        target.close(other)
        found, seen = logits_of(target, CHAT)
        assert found == truth
        assert same_logits(plain.seen, seen.seen)
        assert out == truth[:1]


def test_where_prompts_parted_once_the_third_begins(model: LoadedGguf) -> None:
    common = [3 + at % 50 for at in range(150)]
    with opened(model) as target:
        generate(target, [*common, *[1] * 90], 4)
        generate(target, [*common, *[2] * 90], 4)
        assert cached_of(target, [*common, *[60] * 90]) == len(common)


def test_without_room_for_checkpoints_prompts_are_read_again(model: LoadedGguf) -> None:
    with opened(model) as fresh:
        truth = generate(fresh, CHAT, 12)
    with opened(model, bytes_max=0) as target:
        generate(target, [*CHAT[:-1], 3, 4, 5], 12)
        assert cached_of(target, CHAT) == 0
        assert generate(target, CHAT, 12) == truth
