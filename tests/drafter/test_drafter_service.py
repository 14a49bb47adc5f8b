"""A drafter's end, whatever its engine's thread does."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests.backends.listener import ctx
from tests.drafter.cores import opened
from tests.drafter.test_openings import FOLLOWING
from twd.bus.memory.bus import MemoryBroker
from twd.drafter.core import DrafterCore
from twd.drafter.openings import PendingSessions
from twd.drafter.service import DrafterService
from twd.wire.base import JobId, ModelId, SessionId
from twd.wire.draft import SessionClosed
from twd.wire.failures import Failure, FailureCode, TwdError
from twd.wire.job import FinishReason, JobFailed, JobFinished, JobStats


@pytest.mark.parametrize("ends", [True, False])
async def test_memory_that_a_thread_may_still_use_is_not_given_back(ends: bool) -> None:
    closed: list[bool] = []
    drafter: Any = DrafterService(
        ctx(MemoryBroker()), ModelId("m"), lambda progress: pytest.fail("nothing is loaded here")
    )
    drafter._runner = SimpleNamespace(stop=lambda: ends)
    drafter._loaded = SimpleNamespace(close=lambda: closed.append(True))
    await drafter.teardown()
    assert bool(closed) is ends


JOB, SESSION = JobId("j-s"), SessionId("s")
CLOSED = SessionClosed(job=JOB, session=SESSION)
FINISHED = JobFinished(job=JOB, attempt=1, reason=FinishReason.STOP, stats=JobStats(), session=SESSION)
FAILED = JobFailed(job=JOB, attempt=1, failure=Failure(code=FailureCode.CANCELLED, message="gone"), session=SESSION)


@pytest.mark.parametrize(("handler", "event"), [("closed", CLOSED), ("finished", FINISHED), ("failed", FAILED)])
async def test_whose_grammar_is_still_made_at_its_end_is_not_opened(handler: str, event: Any) -> None:
    drafter: Any = DrafterService(
        ctx(MemoryBroker()), ModelId("m"), lambda progress: pytest.fail("nothing is loaded here")
    )
    openings = drafter._openings = PendingSessions(lambda event: FOLLOWING)
    opening = openings.take(opened([5]))
    assert opening is not None
    getattr(drafter, f"on_{'session' if handler == 'closed' else 'job'}_{handler}")(event)
    assert await openings.following(opening) is None


async def test_a_session_that_cannot_be_followed_is_left_to_others() -> None:
    def follow(event: Any) -> Any:
        raise TwdError(FailureCode.BAD_REQUEST, "logit_bias names token 99", "logit_bias")

    drafter: Any = DrafterService(
        ctx(MemoryBroker()), ModelId("m"), lambda progress: pytest.fail("nothing is loaded here")
    )
    drafter._runner = SimpleNamespace(post=lambda command: pytest.fail("there is nothing to draft with"))
    drafter._loaded = SimpleNamespace(vocab=opened([5]).vocab, follow=follow)
    assert drafter.on_session_opened(opened([5])) is None


async def test_what_was_measured_while_others_loaded_is_not_the_pace_alone() -> None:
    drafter: Any = DrafterService(
        ctx(MemoryBroker()), ModelId("m"), lambda progress: pytest.fail("nothing is loaded here")
    )
    drafter._core, drafter._alone_ms = DrafterCore(drafter.instance, 1, 64), 45.0
    for pace, alone in ((16.0, 16.0), (6.5, 6.5), (9.0, 6.5)):
        drafter._core.token_ms = pace
        drafter.tick(0.0)
        assert (drafter.facts().token_ms, drafter.facts().alone_ms) == (pace, alone)
