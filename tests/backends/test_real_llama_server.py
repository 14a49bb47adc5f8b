"""The adapter against a real llama-server, where one is built (contrib/benchmarks/build_peers.sh) or installed."""

import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.backends.rigs import read, text_of, wish
from tests.model_fixtures import model_cache as model_cache
from twd.backends.clients.detection import open_backend
from twd.backends.clients.llama_server import LlamaServerClient
from twd.engine.demo_model import demo_model
from twd.net.ports import free_port
from twd.settings.model import ServerConfig
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import ChatMessage, FinishReason, Grammar, GrammarKind, Prompt

pytestmark = [pytest.mark.model, pytest.mark.slow]
START_S = 120
HI = Prompt(messages=[ChatMessage(role="user", content="Say hello.")])


def program() -> str | None:
    """Where llama-server is, if anywhere."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "twd" / "peers"
    built = cache / version("llama-cpp-python") / "build" / "bin" / "llama-server"
    named = os.environ.get("TWD_LLAMA_SERVER", "")
    return named or (str(built) if built.exists() else shutil.which("llama-server"))


@pytest.fixture(scope="module")
def url(model_cache: Path) -> Iterator[str]:
    """A running llama-server with the demo model."""
    path = program()
    if path is None:
        pytest.skip("no llama-server here: run contrib/benchmarks/build_peers.sh, or set TWD_LLAMA_SERVER")
    model = demo_model(model_cache, "q4_0")
    port = free_port()
    command = [path, "-m", str(model), "--host", "127.0.0.1", "--port", str(port), "-c", "2048", "-np", "2", "-t", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_until_ready(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if process.poll() is not None:
            pytest.skip(f"llama-server ended with {process.returncode} at its start")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError("llama-server did not become ready in time")


@pytest.fixture
async def backend(url: str) -> AsyncIterator[LlamaServerClient]:
    """Found by `auto`."""
    found = await open_backend(ServerConfig(url=url, timeout_s=60))
    assert isinstance(found, LlamaServerClient)
    yield found
    await found.close()


async def test_what_it_is(backend: LlamaServerClient) -> None:
    can = await backend.probe()
    assert (can.tokens, can.score, can.chat, can.context, can.slots) == (True, False, True, 1024, 2)
    assert (can.vocabulary, can.quantization) == (49152, "Q4_0")


async def test_tokens_and_texts_agree(backend: LlamaServerClient) -> None:
    await backend.probe()
    tokens = await backend.tokenize("The capital of France is")
    assert await backend.detokenize(tokens) == "The capital of France is"
    by_text = await read(backend, wish("The capital of France is", max_tokens=16))
    by_tokens = await read(backend, wish(prompt=Prompt(tokens=tokens), max_tokens=16))
    assert text_of(by_text) == text_of(by_tokens)
    written = [token for piece in by_tokens for token in piece.tokens]
    assert len(written) == 16
    assert await backend.detokenize(written) == text_of(by_tokens)
    assert by_tokens[-1].end is FinishReason.LENGTH
    assert by_tokens[-1].usage is not None
    assert by_tokens[-1].usage.completion == 16
    assert by_tokens[-1].usage.prompt == len(tokens)


async def test_a_conversation_is_the_same_by_its_tokens(backend: LlamaServerClient) -> None:
    await backend.probe()
    answer = text_of(await read(backend, wish(prompt=HI, max_tokens=12)))
    assert answer
    rendered = await backend.render(HI)
    assert text_of(await read(backend, wish(prompt=Prompt(tokens=rendered), max_tokens=12))) == answer
    assert await backend.tokenize("<|im_start|>", special=True) == rendered[:1]
    assert len(await backend.tokenize("<|im_start|>")) > 1


async def test_stops_grammars_and_refusals(backend: LlamaServerClient) -> None:
    await backend.probe()
    whole = text_of(await read(backend, wish("One, two, three,", max_tokens=16)))
    stop = whole[5:8]
    pieces = await read(backend, wish("One, two, three,", max_tokens=16, stop=(stop,)))
    assert text_of(pieces) == whole[: whole.index(stop)]
    assert (pieces[-1].end, pieces[-1].stop) == (FinishReason.STOP, stop)
    grammar = Grammar(kind=GrammarKind.GBNF, text='root ::= "yes" | "no"')
    assert text_of(await read(backend, wish(prompt=HI, grammar=grammar))) in ("yes", "no")
    assert text_of(await read(backend, wish("Well", grammar=grammar))) in ("yes", "no")
    with pytest.raises(TwdError) as caught:
        await read(backend, wish(prompt=Prompt(tokens=[1] * 3000)))
    assert caught.value.code is FailureCode.CONTEXT_OVERFLOW


async def test_who_hangs_up_may_come_again(backend: LlamaServerClient) -> None:
    await backend.probe()
    for _ in range(3):
        async with aclosing(backend.stream(wish("Once upon a time", max_tokens=500))) as stream:
            await anext(stream)
    assert text_of(await read(backend, wish("Once upon a time", max_tokens=4)))
