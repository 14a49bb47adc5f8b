"""A model takes the place of another while clients ask: no answer is lost, and `default` follows."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import APIStatusError, OpenAI
from openai.types.chat import ChatCompletionMessageParam

from tests.cli.running import Installed, running
from tests.e2e.conftest import client_of
from tests.waiting import wait_until
from twd.engine.demo_model import demo_model

pytestmark = [pytest.mark.e2e, pytest.mark.model, pytest.mark.nats, pytest.mark.slow]
ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say hello."}]


@pytest.fixture(scope="module")
def house(model_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """One with a model, and a second file that its agent finds."""
    folder = tmp_path_factory.mktemp("swap")
    (folder / "files").mkdir()
    (folder / "files" / "quick.gguf").symlink_to(demo_model(model_cache, "q8_0"))
    (folder / "twd.yaml").write_text(
        f"agent: {{port: 0, model_dirs: ['{folder / 'files'}']}}\n"
        f"models: {{first: {{path: '{demo_model(model_cache, 'q4_0')}', ctx_size: 512, parallel: 2}}}}\n"
    )
    with running(folder / "home", measured=model_cache) as installed:
        yield installed


@pytest.fixture
def client(house: Installed) -> Iterator[OpenAI]:
    with client_of(house) as client:
        yield client


def ask(client: OpenAI, model: str = "default") -> tuple[str, str]:
    answer = client.chat.completions.create(model=model, messages=ASK, max_tokens=6, temperature=0)
    return answer.model, answer.choices[0].message.content or ""


def serve(house: Installed, client: OpenAI, model: str) -> None:
    """Let this model be the one that is served, whatever came before: each test may run alone."""
    if ask(client)[0] != model:
        assert house.twd("swap", model).returncode == 0


def test_nobody_waits_for_a_swap(house: Installed, client: OpenAI) -> None:
    serve(house, client, "first")
    seen: list[str] = []
    failed: list[APIStatusError] = []
    over = threading.Event()

    def keep_asking() -> None:
        while not over.wait(0.02):  # others compute meanwhile
            try:
                seen.append(ask(client)[0])
            except APIStatusError as error:
                failed.append(error)

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        done = house.twd("swap", "quick")
    finally:
        over.set()
        asking.join(60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "beside first" in done.stdout
    assert ask(client)[0] == "quick"
    assert failed == []
    assert set(seen) <= {"first", "quick"}
    assert seen == sorted(seen)  # first, and then never again
    listed = [model.id for model in client.models.list().data]
    assert listed == ["quick", "default", "twd"]
    with pytest.raises(APIStatusError) as gone:
        ask(client, "first")
    assert gone.value.status_code == 404


def test_what_cannot_be_changes_nothing(house: Installed, client: OpenAI, tmp_path: Path) -> None:
    before = ask(client)
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF and no more")
    for name, code in (("nothing", 9), (str(tmp_path / "no.gguf"), 9), (str(broken), 7)):
        done = house.twd("swap", name)
        assert done.returncode == code, (name, done.stderr)
        assert "Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) <= 2
    assert ask(client) == before


@pytest.mark.thorough
def test_models_come_and_go(house: Installed, client: OpenAI) -> None:
    serve(house, client, "quick")
    quick = ask(client)
    assert house.twd("start", "-m", "first").returncode == 0
    assert ask(client) == quick
    assert ask(client, "first")[0] == "first"
    assert house.twd("stop", "quick").returncode == 0
    assert ask(client)[0] == "first"
    done = house.twd("stop", "quick")
    assert (done.returncode, "served are: first" in done.stderr) == (9, True)
    assert house.twd("stop").returncode == 0
    with pytest.raises(APIStatusError) as nobody:
        ask(client)
    assert nobody.value.status_code == 503
    assert nobody.value.response.headers["Retry-After"]
    assert house.twd("start").returncode == 0
    assert ask(client)[0] == "first"
    wait_until(lambda: house.status().get("healthy", False), "all is well")


@pytest.mark.thorough
def test_memory_is_given_back(house: Installed, client: OpenAI) -> None:
    serve(house, client, "first")
    before = ask(client)
    done = house.twd("reclaim")
    assert done.returncode == 0, done.stderr
    assert "first: resident" in done.stdout
    assert ask(client) == before
