"""A model with a recurrent state and a head of its own, as users start it: in one process, and over a ring."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.cli.running import Installed, running
from tests.e2e.conftest import client_of
from tests.engine.slices.recipes import recipe
from tests.model_fixtures import model_cache, q4_path
from tests.waiting import wait_until

__all__ = ["model_cache", "q4_path"]
pytestmark = [pytest.mark.e2e, pytest.mark.model, pytest.mark.nats, pytest.mark.slow, pytest.mark.thorough]

QUESTION = [{"role": "user", "content": "Tell me of the sea and the moon. " * 8}]
OFF = {"twd": {"speculation": "off"}}


@pytest.fixture(scope="module")
def settings(q4_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny hybrid that speaks as SmolLM2, with a copy of itself as drafter."""
    folder = tmp_path_factory.mktemp("hybrid")
    one = recipe("qwen35 with a head")
    longer = replace(one, fields=one.fields | {"context_length": ("UINT32", 4096)})
    for name in ("big", "copy"):
        longer.write(folder / f"{name}.gguf", speaks=q4_path)
    lines = [
        f"models: {{big: {{path: {folder / 'big.gguf'}, ctx_size: 1024, parallel: 2}}}}",
        f"drafters: [{{path: {folder / 'copy.gguf'}}}]",
    ]
    path = folder / "twd.yaml"
    path.write_text("\n".join(lines))
    return path


def say(client: OpenAI, messages: list[dict[str, str]] = QUESTION, **options: Any) -> Any:
    told = {"model": "big", "max_tokens": 60, "temperature": 0.8, "seed": 5} | options
    return client.chat.completions.create(messages=messages, **told)  # type: ignore[call-overload]


def text(answer: Any) -> str:
    return str(answer.choices[0].message.content)


@pytest.fixture(scope="module")
def alone(settings: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Installed, str]]:
    home = tmp_path_factory.mktemp("alone") / "home"
    with running(home, TWD_CONFIG=str(settings)) as installed, client_of(installed) as client:
        yield installed, text(say(client, extra_body=OFF))


@pytest.fixture(scope="module")
def ring(settings: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    home = tmp_path_factory.mktemp("ring") / "home"
    with running(home, "--ring", "3", TWD_CONFIG=str(settings), TWD_MODE="combined") as installed:
        yield installed


def test_drafts_of_all_kinds_change_no_word(alone: tuple[Installed, str]) -> None:
    installed, plain = alone
    with client_of(installed) as client:
        for mode in ("auto", 4):
            drafted = say(client, extra_body={"twd": {"speculation": mode}})
            assert text(drafted) == plain
        (facts,) = [one for one in installed.status()["services"] if one["service"] == "speculator"]
        assert "its own head guesses" in str(facts)


def test_the_next_turn_reads_what_is_new(alone: tuple[Installed, str]) -> None:
    installed, plain = alone
    with client_of(installed) as client:
        turns = [*QUESTION, {"role": "assistant", "content": plain}, {"role": "user", "content": "And then?"}]
        say(client)
        usage = say(client, turns).usage
        assert usage.prompt_tokens_details.cached_tokens > 64


def test_a_ring_says_the_same_whoever_dies(alone: tuple[Installed, str], ring: Installed) -> None:
    _, plain = alone
    with client_of(ring) as client:
        assert text(say(client)) == text(say(client, extra_body=OFF)) == plain
        victim = next(
            one["pid"]
            for one in ring.status()["services"]
            if one["service"] == "stage" and one["node"].startswith("node-")
        )
        parts: list[str] = []
        for chunk in say(client, extra_body=OFF, stream=True):
            if len(parts) == 3:
                os.kill(victim, signal.SIGKILL)
            parts += [chunk.choices[0].delta.content or ""] if chunk.choices else []
        assert "".join(parts) == plain
        wait_until(lambda: ring.status().get("healthy", False), "the ring is whole again", timeout_s=90)
        assert text(say(client)) == plain
