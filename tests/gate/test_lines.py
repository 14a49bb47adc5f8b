"""Prompts to calibrate on, and what a right answer is; profiles, and when they go stale."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from twd.gate.calibration import profile
from twd.gate.calibration.lines import Check, read_lines
from twd.gate.calibration.profile import Conditions, Profile
from twd.wire.job import Sampling

HERE = Conditions(judge="big", member="q", judge_is="1", member_is="2", sampling="3", hold="48")
KEPT = Profile(
    conditions=HERE,
    statistic="mean",
    tolerance=0.5,
    max_error=0.05,
    confidence=0.95,
    passes=100,
    errors=1,
    bound=0.047,
    prompts="p",
)


def test_chats_batches_and_prompts_are_read_and_the_rest_is_told() -> None:
    read = read_lines(
        [
            '{"messages":[{"role":"user","content":"one"}],"check":{"equals":"1"},"kind":"sum"}',
            '{"custom_id":"x","method":"POST","url":"/v1/chat/completions","body":{"model":"m","max_tokens":5,'
            '"messages":[{"role":"user","content":"two"}]}}',
            '{"prompt":"three"}',
            '{"prompt":"three"}',
            "",
            '{"messages":[{"role":"user"',
            '{"messages":[{"role":"assistant","content":"no"}]}',
            '{"prompt":"x","check":{"regex":"("}}',
        ]
    )
    assert [line.messages[0].content for line in read.lines] == ["one", "two", "three"]
    assert read.lines[1].max_tokens == 5
    assert read.doubled == 1
    assert [text.split(":")[0] for text in read.broken] == ["line 6", "line 7", "line 8"]


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        (Check(equals="Paris"), " Paris\n", "Paris."),
        (Check(contains="paris"), "It is Paris.", "Lyon"),
        (Check(regex=r"^\d+$"), "42", "42 apples"),
        (Check(number=1205), "First 5, then 1,205", "1,205 and 7"),
        (
            Check(schema={"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}),
            'Here: {"a": 3}',
            '{"a": true}',
        ),
        (Check(schema={"type": "array", "items": {"enum": ["x"]}}), '["x"]', "nothing"),
    ],
)
def test_checks(check: Check, right: str, wrong: str) -> None:
    assert check.holds(right)
    assert not check.holds(wrong)


def test_a_profile_counts_only_under_its_conditions(tmp_path: Path) -> None:
    path = profile.write(tmp_path, KEPT)
    assert path.stat().st_mode & 0o777 == 0o600
    found = profile.read(path)
    assert isinstance(found, Profile)
    assert found.stale(HERE) == ""
    assert "judge's model" in found.stale(replace(HERE, judge_is="other"))
    assert replace(found, closed="errors").stale(HERE) == "errors"


@pytest.mark.parametrize("damage", [lambda data: data[:50], lambda data: data.replace(b"0.5", b"9.5")])
def test_a_profile_that_was_cut_or_edited_is_none(tmp_path: Path, damage: object) -> None:
    path = profile.write(tmp_path, KEPT)
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert isinstance(profile.read(path), str)
    assert isinstance(profile.read(tmp_path / "none"), str)


def test_how_texts_are_drawn_counts_but_not_the_seed() -> None:
    assert profile.sampling_hash(Sampling(seed=1)) == profile.sampling_hash(Sampling(seed=2))
    assert profile.sampling_hash(Sampling(temperature=0.5)) != profile.sampling_hash(Sampling())
