"""Settings that are read again: what they mean, and what becomes of it."""

from collections.abc import Callable

import msgspec
import pytest

from twd.settings.model import EdgeConfig, ModelConfig, Settings
from twd.supervisor.service import Wish
from twd.supervisor.service_manager.reload import ReloadPlan, SettingsReload, plan_reload
from twd.wire.base import ModelId, NodeId
from twd.wire.failures import Failure, FailureCode, TwdError
from twd.wire.life import ChangeAnswered, ChangeStep, ChangeTold, ModelUnwanted, ModelWanted

NODE = NodeId("desk")


def settings(**models: ModelConfig) -> Settings:
    return Settings(models=models)


def model(path: str, **more: object) -> ModelConfig:
    return ModelConfig(path=path, **more)  # type: ignore[arg-type]


A, B = model("a.gguf"), model("b.gguf")


@pytest.mark.parametrize(
    ("old", "new", "served", "plan"),
    [
        (settings(a=A), settings(a=A), ["a"], ReloadPlan()),
        (settings(a=A), settings(a=A, b=B), ["a"], ReloadPlan(starts=("b",))),
        (settings(a=A, b=B), settings(b=B), ["a", "b"], ReloadPlan(stops=("a",))),
        (settings(a=A), settings(a=B), ["a"], ReloadPlan(stops=("a",), starts=("a",))),
        (settings(a=A), settings(a=model("a.gguf", serve=False)), ["a"], ReloadPlan(stops=("a",))),
        (settings(a=A), settings(a=model("a.gguf", default=True)), ["a"], ReloadPlan(later=("models.default",))),
        (settings(a=A, b=B), settings(b=B), ["b"], ReloadPlan()),  # it was stopped by hand before
    ],
)
def test_models_come_and_go(old: Settings, new: Settings, served: list[str], plan: ReloadPlan) -> None:
    assert plan_reload(old, new, served) == plan


def test_what_was_started_by_hand_stays() -> None:
    assert plan_reload(settings(a=A), settings(a=A), ["a", "by-hand"]) == ReloadPlan()


def test_other_sections_wait_for_the_next_start() -> None:
    new = msgspec.structs.replace(settings(a=A), edge=EdgeConfig(port=9))
    assert plan_reload(settings(a=A), new, ["a"]) == ReloadPlan(later=("edge",))


class Life:
    """Serves models as it is told, and fails for files that are called `broken`."""

    def __init__(self, known: Settings) -> None:
        self.known = dict(known.models)
        self.models = list(known.models)
        self.wishes: list[str] = []
        self.tell: Callable[[ChangeTold], None] = lambda told: None

    def learn(self, models: dict[str, ModelConfig]) -> None:
        self.known |= models

    async def begin(self, wish: Wish) -> ChangeAnswered:
        name = wish.model
        self.wishes.append(f"{type(wish).__name__} {name} {self.known[name].path}")
        failed = isinstance(wish, ModelWanted) and self.known[name].path == "broken.gguf"
        if failed and "at once" in self.known:
            raise TwdError(FailureCode.MODEL_LOAD, "no such file")
        failure = Failure(code=FailureCode.MODEL_LOAD, message="it does not load") if failed else None
        if not failed:
            self.models = [one for one in self.models if one != name]
            self.models += [] if isinstance(wish, ModelUnwanted) else [name]
        step = ChangeStep.FAILED if failed else ChangeStep.DONE
        self.tell(ChangeTold(node=NODE, change=wish.id, step=step, model=ModelId(name), failure=failure))
        return ChangeAnswered(node=NODE, change=wish.id)


async def reload(old: Settings, new: Settings) -> tuple[Life, bool, str]:
    life, made = Life(old), SettingsReload(lambda: new, old, NODE)
    life.tell = made.told
    well, words = await made.carry_out(life)
    return life, well, words


async def test_a_model_leaves_before_another_comes() -> None:
    life, well, words = await reload(settings(a=A), settings(b=B))
    assert well
    assert life.wishes == ["ModelUnwanted a a.gguf", "ModelWanted b b.gguf"]
    assert life.models == ["b"]
    assert words == "settings read again; without a; with b"


async def test_a_changed_model_that_does_not_load_comes_back_as_it_was() -> None:
    life, well, words = await reload(settings(a=A), settings(a=model("broken.gguf")))
    assert not well
    assert life.models == ["a"]
    assert life.known["a"].path == "a.gguf"
    assert words == "settings read again; without a; a as before; a: it does not load"


async def test_settings_that_cannot_be_used_change_nothing() -> None:
    def refuse() -> Settings:
        raise TwdError(FailureCode.BAD_REQUEST, "twd.yaml:2: unknown\n key")

    life = Life(settings(a=A))
    well, words = await SettingsReload(refuse, settings(a=A), NODE).carry_out(life)
    assert not well
    assert life.wishes == []
    assert words == "the settings cannot be used, so nothing has changed: twd.yaml:2: unknown key"


async def test_nothing_changed_is_said() -> None:
    _, well, words = await reload(settings(a=A), settings(a=A))
    assert (well, words) == (True, "settings read again: nothing has changed")
