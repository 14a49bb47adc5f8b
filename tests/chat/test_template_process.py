"""Templates in a process with limits: the same text, and whatever one does, it ends with a message."""

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.chat.hostile_templates import KEYS, SHARED, TUPLES
from tests.waiting import wait_until
from twd.chat import template_process
from twd.chat.template import CHATML
from twd.chat.template_process import AT_ONCE, HOPELESS, ConfinedTemplate, begin_worker
from twd.chat.template_sandbox import SandboxedTemplate
from twd.wire.failures import FailureCode, TwdError

NOW = datetime(2031, 5, 17, 9, 30, tzinfo=UTC)
MESSAGES = {"messages": [{"role": "user", "content": "naïve \ue000 \ud800"}], "add_generation_prompt": True}


@pytest.fixture(scope="module")
def chatml() -> ConfinedTemplate:
    return ConfinedTemplate(CHATML)


def test_it_makes_the_same_text_and_tells_the_same_of_itself(chatml: ConfinedTemplate) -> None:
    here = SandboxedTemplate(CHATML)
    assert chatml.render(MESSAGES, NOW) == here.render(MESSAGES, NOW)
    assert (chatml.words, chatml.names) == (here.words, here.names)


def test_threads_render_at_once(chatml: ConfinedTemplate) -> None:
    with ThreadPoolExecutor(2 * AT_ONCE) as threads:
        texts = list(threads.map(lambda _: chatml.render(MESSAGES, NOW), range(50)))
    assert len(set(texts)) == 1


def test_what_a_template_refuses_is_told_in_its_words() -> None:
    template = ConfinedTemplate("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(TwdError, match="refuses this conversation: roles must alternate") as error:
        template.render({}, NOW)
    assert (error.value.code, error.value.failure.field) == (FailureCode.BAD_REQUEST, "messages")


def test_what_does_not_compile_fails_the_load() -> None:
    with pytest.raises(TwdError, match="broken in line 3") as error:
        ConfinedTemplate("a\nb\n{% if %}")
    assert error.value.code is FailureCode.MODEL_LOAD


@pytest.mark.parametrize(
    "source",
    [
        SHARED % "{{ ns.a == ns.b }}",  # would take days, in one step
        pytest.param(TUPLES % "{{ {ns.a: 1} | length }}", marks=pytest.mark.thorough),
        KEYS % "{{ ([big] * 9000) | sort(case_sensitive=false) | length }}",  # would take 80 GB
    ],
)
def test_what_the_accounting_does_not_see_is_ended(source: str) -> None:
    template = ConfinedTemplate(source)
    with pytest.raises(TwdError, match=r"does too much|fails on this conversation: MemoryError"):
        template.render({}, NOW)


def test_after_one_that_was_ended_others_are_rendered() -> None:
    template = ConfinedTemplate(SHARED % "{{ 'quick' if not slow else ns.a == ns.b }}")
    assert template.render({"slow": False}, NOW) == "quick"
    for _ in range(2):
        with pytest.raises(TwdError, match="does too much"):
            template.render({"slow": True}, NOW)
        assert template.render({"slow": False}, NOW) == "quick"


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
@pytest.mark.parametrize("strike", ["SIGKILL", "SIGSTOP"])
def test_a_process_that_was_killed_or_stopped_while_it_waited_is_replaced(strike: str) -> None:
    template = ConfinedTemplate("{{ messages[0].content }}")
    for _ in range(HOPELESS + 1):
        os.kill(template._idle[0]._process.pid, signal.Signals[strike])
        if strike == "SIGSTOP":
            wait_until(lambda: not template._idle[0].runs, "it stands still")
        template._idle[0].line.settimeout(600.0)  # nobody waits for its answer
        assert template.render({"messages": [{"content": "hi"}]}, NOW) == "hi"
    template.close()


def test_a_template_that_never_made_a_text_is_not_tried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twd.chat.template_process.HOPELESS", 1)
    template = ConfinedTemplate(SHARED % "{{ ns.a == ns.b }}")
    for _ in range(2):
        with pytest.raises(TwdError, match="does too much"):
            template.render({}, NOW)
    monkeypatch.setattr("twd.chat.template_process._Worker", None)  # so nothing is started any more
    with pytest.raises(TwdError, match="does too much"):
        template.render({}, NOW)


def test_a_text_far_longer_than_the_conversation_is_refused() -> None:
    template = ConfinedTemplate("{{ 'x' * 5000000 }}")
    with pytest.raises(TwdError, match="makes 5000000 bytes of a conversation"):
        template.render({}, NOW)


def test_no_process_outlives_its_template() -> None:
    template = ConfinedTemplate("{{ 1 }}")
    worker = template._idle[0]
    pid = worker._process.pid
    assert Path(f"/proc/{pid}").exists() or not Path("/proc/self").exists()
    template.close()
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
def test_a_process_that_somebody_else_killed_is_waited_for() -> None:
    template = ConfinedTemplate("{{ 1 }}")
    process = template._idle[0]._process
    os.kill(process.pid, signal.SIGKILL)
    process.reaper.join(20.0)
    assert not Path(f"/proc/{process.pid}").exists()
    template.close()


def test_a_process_that_was_begun_before_is_used_and_no_second_one_waits() -> None:
    begin_worker()
    begin_worker()
    (begun,) = template_process._begun
    template = ConfinedTemplate("{{ messages[0].content }}")
    assert template._idle[0]._process is begun
    assert not template_process._begun
    assert template.render({"messages": [{"content": "hi"}]}, NOW) == "hi"
    template.close()
