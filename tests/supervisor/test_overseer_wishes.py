"""Wishes that reach a supervisor over the bus: answered by its own machine's, refused in words."""

import pytest

from tests.signed import signed
from tests.supervisor.test_service import ctx
from twd.bus.base import NoResponders
from twd.bus.memory.bus import MemoryBroker
from twd.process.process_table import ProcessTable
from twd.supervisor.service import SupervisorService, Wish
from twd.wire.base import EventId, ModelId, NodeId
from twd.wire.codec import decode, encode
from twd.wire.failures import FailureCode, TwdError
from twd.wire.leases.machine import SupervisorFacts
from twd.wire.life import ChangeAnswered, ModelUnwanted, ModelWanted, SwapWanted
from twd.wire.routes import subject_of

DESK = NodeId("desk")


class Life:
    """Somebody who changes models, or says why not."""

    changed = False
    default = "old"

    def __init__(self) -> None:
        self.models = ["old"]
        self.wishes: list[Wish] = []
        self.error: Exception | None = None

    async def begin(self, wish: Wish) -> ChangeAnswered:
        self.wishes.append(wish)
        if self.error is not None:
            raise self.error
        return ChangeAnswered(node=DESK, change=wish.id, model=ModelId("new"))


async def ask(broker: MemoryBroker, wish: Wish) -> ChangeAnswered:
    bus = broker.connect("cli")
    answer = decode(await bus.request(subject_of(signed(wish)), encode(signed(wish)), timeout_s=5.0))
    assert isinstance(answer, ChangeAnswered)
    return answer


@pytest.mark.parametrize(
    "wish",
    [
        ModelWanted(id=EventId("w1"), node=DESK, model="new"),
        ModelUnwanted(id=EventId("w1"), node=DESK, model="old"),
        SwapWanted(id=EventId("w1"), node=DESK, model="new"),
    ],
)
async def test_a_wish_is_passed_on_and_answered(wish: Wish) -> None:
    broker, life = MemoryBroker(), Life()
    supervisor_service = SupervisorService(ctx(broker, 1), ProcessTable(), lambda: None, life)
    await supervisor_service.start()
    answer = await ask(broker, wish)
    assert (answer.change, answer.model, answer.failure) == ("w1", "new", None)
    assert [type(one) for one in life.wishes] == [type(wish)]
    await supervisor_service.stop()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TwdError(FailureCode.MODEL_NOT_FOUND, "no such model"), FailureCode.MODEL_NOT_FOUND),
        (PermissionError(13, "Permission denied", "/m.gguf"), FailureCode.MODEL_LOAD),
        (RuntimeError("a fault of ours"), FailureCode.INTERNAL),
    ],
)
async def test_a_refusal_comes_back_in_words(error: Exception, code: FailureCode) -> None:
    broker, life = MemoryBroker(), Life()
    life.error = error
    supervisor_service = SupervisorService(ctx(broker, 1), ProcessTable(), lambda: None, life)
    await supervisor_service.start()
    answer = await ask(broker, SwapWanted(id=EventId("w1"), node=DESK, model="new"))
    assert answer.failure is not None
    assert answer.failure.code is code
    assert not supervisor_service.ended.is_set()
    await supervisor_service.stop()


async def test_a_wish_for_another_machine_is_not_ours() -> None:
    broker = MemoryBroker()
    supervisor_service = SupervisorService(ctx(broker, 1), ProcessTable(), lambda: None, Life())
    await supervisor_service.start()
    with pytest.raises(NoResponders):
        await ask(broker, ModelWanted(id=EventId("w1"), node=NodeId("shelf"), model="new"))
    await supervisor_service.stop()


async def test_without_somebody_who_changes_models_it_says_so() -> None:
    broker = MemoryBroker()
    supervisor_service = SupervisorService(ctx(broker, 1), ProcessTable(), lambda: None)
    await supervisor_service.start()
    answer = await ask(broker, ModelUnwanted(id=EventId("w1"), node=DESK))
    assert answer.failure is not None
    assert answer.failure.code is FailureCode.UNSUPPORTED
    assert supervisor_service.facts() == SupervisorFacts()
    await supervisor_service.stop()


async def test_the_lease_tells_what_is_served_once_that_changed() -> None:
    life = Life()
    supervisor_service = SupervisorService(ctx(MemoryBroker(), 1), ProcessTable(), lambda: None, life)
    assert supervisor_service.facts() == SupervisorFacts()
    life.changed = True
    assert supervisor_service.facts() == SupervisorFacts(models=["old"], default_model="old")
