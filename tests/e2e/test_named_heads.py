"""A trained head that is named, as users start it: it changes no word, also when the target is killed."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gguf
import pytest

from tests.cli.running import Installed, running
from tests.e2e.conftest import client_of
from tests.e2e.test_hybrids import OFF, say, text
from tests.engine.block_reference import dspark, strong
from tests.engine.shared_reference import assistant
from tests.engine.slices.recipes import Recipe, recipe
from tests.model_fixtures import model_cache, q4_path

__all__ = ["model_cache", "q4_path"]
pytestmark = [pytest.mark.e2e, pytest.mark.model, pytest.mark.nats, pytest.mark.slow, pytest.mark.thorough]


@pytest.fixture(scope="module", params=["DSpark", "assistant"])
def installed(
    request: pytest.FixtureRequest, q4_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installed]:
    """A tiny model that speaks as SmolLM2, with a head."""
    folder = tmp_path_factory.mktemp("named")
    target, head = (recipe("llama"), dspark(known=words_of(q4_path))) if request.param == "DSpark" else gemma()
    model = longer(target).write(folder / "big.gguf", speaks=q4_path)
    guesses = longer(head).write(folder / "head.gguf", speaks=q4_path, change=strong)
    settings = folder / "twd.yaml"
    settings.write_text(
        f"models: {{big: {{path: {model}, ctx_size: 1024, parallel: 2}}}}\ndrafters: [{{head: {guesses}}}]\n"
    )
    with running(folder / "home", TWD_CONFIG=str(settings)) as one:
        yield one


def gemma() -> tuple[Recipe, Recipe]:
    return recipe("gemma4"), assistant()


def words_of(path: Path) -> int:
    fields = gguf.GGUFReader(path).fields.values()
    return next(len(field.data) for field in fields if field.name == "tokenizer.ggml.tokens")


def longer(one: Recipe) -> Recipe:
    return replace(one, fields=one.fields | {"context_length": ("UINT32", 4096)})


def test_it_is_told_of_and_changes_no_word(installed: Installed) -> None:
    with client_of(installed) as client:
        assert text(say(client)) == text(say(client, extra_body=OFF))
    (facts,) = [one for one in installed.status()["services"] if one["service"] == "speculator"]
    assert "the head head.gguf guesses, " in str(facts)


def test_a_speculator_that_is_killed(installed: Installed) -> None:
    with client_of(installed) as client:
        plain = text(say(client, extra_body=OFF))
        victim = next(one["pid"] for one in installed.status()["services"] if one["service"] == "speculator")
        parts: list[str] = []
        for chunk in say(client, stream=True):
            if len(parts) == 3:
                os.kill(victim, signal.SIGKILL)
            parts += [chunk.choices[0].delta.content or ""] if chunk.choices else []
        assert "".join(parts) == plain
        assert text(say(client)) == plain
