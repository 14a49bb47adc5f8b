"""A gate over real models: a quicker copy writes, the target judges, and without calibration no text changes."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import APIStatusError, OpenAI

from tests.cli.running import Installed, running
from tests.e2e.conftest import client_of
from tests.waiting import wait_until
from twd.engine.demo_model import demo_model

pytestmark = [pytest.mark.e2e, pytest.mark.model, pytest.mark.nats, pytest.mark.slow]
QUESTIONS = ("What is the capital of France?", "Write two sentences about the sea.", "Count from one to twelve.")


@pytest.fixture(scope="module")
def house(model_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    home = tmp_path_factory.mktemp("gate") / "home"
    models = "".join(
        f"  {name}: {{path: '{demo_model(model_cache, kind)}', ctx_size: 512, parallel: 2}}\n"
        for name, kind in (("big", "q8_0"), ("quick", "q4_0"))
    )
    settings = f"agent: {{port: 0}}\nmodels:\n{models}gate: {{fleet: [quick], economy: false, hold: 12, audit: 0.0}}\n"
    (home.parent / "twd.yaml").write_text(settings)
    with running(home, measured=model_cache) as installed:
        wait_until(lambda: "big+gate" in names(installed), "the gate is ready")
        yield installed


def names(house: Installed) -> list[str]:
    with client_of(house) as client:
        return [model.id for model in client.models.list()]


@pytest.fixture
def client(house: Installed) -> Iterator[OpenAI]:
    with client_of(house) as client:
        yield client


def ask(client: OpenAI, model: str, question: str, **options: Any) -> Any:
    return client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        max_tokens=options.pop("max_tokens", 40),
        temperature=options.pop("temperature", 0.0),
        seed=7,
        **options,
    )


@pytest.mark.parametrize("temperature", [0.0, pytest.param(0.8, marks=pytest.mark.thorough)])
def test_without_calibration_texts_are_the_targets_own(client: OpenAI, temperature: float) -> None:
    for question in QUESTIONS:
        plain = ask(client, "big", question, temperature=temperature)
        judged = ask(client, "gate", question, temperature=temperature)
        assert judged.choices[0].message.content == plain.choices[0].message.content
        assert judged.choices[0].finish_reason == plain.choices[0].finish_reason
        assert judged.usage.completion_tokens == plain.usage.completion_tokens
        assert judged.twd["verdict"] in ("approve", "correct", "reject")
        assert (judged.twd["mode"], judged.twd["approximate"], judged.model) == ("gate", False, "big+gate")


def test_streams_are_the_same_text(client: OpenAI) -> None:
    for question in QUESTIONS:
        plain = ask(client, "big", question).choices[0].message.content
        pieces = ask(client, "big+gate", question, stream=True)
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == plain


def test_what_must_be_exact_is_asked_of_the_model_itself(client: OpenAI) -> None:
    answer = ask(client, "big+gate", QUESTIONS[0], logprobs=True)
    assert answer.twd["mode"] == "speculate"
    assert answer.choices[0].logprobs.content
    with pytest.raises(APIStatusError) as refused:
        ask(client, "big", QUESTIONS[0], extra_body={"twd": {"mode": "gate", "exact": True}})
    assert refused.value.status_code == 400
    assert "may change the text" in refused.value.message


def test_stops_hold(client: OpenAI) -> None:
    plain = ask(client, "big", QUESTIONS[2], stop=["5", "five"])
    judged = ask(client, "big+gate", QUESTIONS[2], stop=["5", "five"])
    assert judged.choices[0].message.content == plain.choices[0].message.content


@pytest.mark.parametrize(
    "victim", ["gate", *(pytest.param(f"speculator.{name}", marks=pytest.mark.thorough) for name in ("quick", "big"))]
)
def test_a_process_that_is_killed_in_mid_answer_costs_no_text(house: Installed, client: OpenAI, victim: str) -> None:
    plain = ask(client, "big", "Tell me of the moon.", max_tokens=120).choices[0].message.content
    pieces: list[str] = []
    for piece in ask(client, "big+gate", "Tell me of the moon.", max_tokens=120, stream=True):
        if piece.choices and piece.choices[0].delta.content:
            pieces.append(piece.choices[0].delta.content)
            if len(pieces) == 1:
                os.kill(house.pids()[victim], signal.SIGKILL)
    assert "".join(pieces) == plain
    wait_until(lambda: "big+gate" in names(house), "it is back")


def test_a_calibration_goes_on_where_it_was(house: Installed, tmp_path: Path) -> None:
    asked, kept = tmp_path / "asked.jsonl", tmp_path / "kept.jsonl"
    asked.write_text("".join(f'{{"prompt": "{question}", "max_tokens": 8}}\n' for question in QUESTIONS))
    pair = ("--judge", "quick", "--member", "big", "--error", "same", "--keep", str(kept))
    missing = house.twd("gate", "eval", str(asked), *pair)
    assert (missing.returncode, kept.exists()) == (6, False)
    assert "it was never calibrated" in missing.stderr
    loose = ("--max-error", "0.9", "--confidence", "0.1", "--json")
    first, again = (json.loads(house.twd("gate", "calibrate", str(asked), *pair, *loose).stdout) for _ in range(2))
    assert first == again
    assert len(kept.read_text().split()) == first["answers"] == len(QUESTIONS)
