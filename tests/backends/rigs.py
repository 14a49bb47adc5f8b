"""Every adapter with the fake of its server: what the contract suite runs over."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.backends.fakes.gpu_servers import FakeSglang, FakeVllm
from tests.backends.fakes.llama_server import FakeLlamaServer
from tests.backends.fakes.ollama_server import FakeOllama
from tests.backends.fakes.openai_server import OpenAiServer
from tests.backends.fakes.server import Server
from twd.backends.base import Backend, Piece, Wish
from twd.backends.echo import Echo
from twd.backends.llama_server import LlamaServer
from twd.backends.ollama import Ollama
from twd.backends.openai_compatible import OpenAiCompatible
from twd.backends.sglang import Sglang
from twd.backends.upstream import Upstream
from twd.backends.vllm import Vllm
from twd.wire.job import Prompt, Sampling


@dataclass(frozen=True)
class Rig:
    """How to make a server and its adapter."""

    server: Callable[[], Server]
    backend: Callable[[Upstream, str], Backend]
    chats_at: str
    completes_at: str


def echoing() -> OpenAiServer:
    """A server that echoes prompts with log probabilities."""
    server = OpenAiServer()
    server.scores = True
    return server


RIGS = {
    "openai": Rig(OpenAiServer, OpenAiCompatible, "/chat/completions", "/completions"),
    "echo": Rig(echoing, Echo, "/chat/completions", "/completions"),
    "llamacpp": Rig(FakeLlamaServer, LlamaServer, "/chat/completions", "/completion"),
    "ollama": Rig(FakeOllama, Ollama, "/api/chat", "/api/generate"),
    "vllm": Rig(FakeVllm, Vllm, "/chat/completions", "/completions"),
    "sglang": Rig(FakeSglang, Sglang, "/chat/completions", "/completions"),
}


def wish(text: str = "once upon", **fields: object) -> Wish:
    """A text to be continued by a few tokens."""
    prompt = fields.pop("prompt", None) or Prompt(text=text)
    return Wish(**({"prompt": prompt, "max_tokens": 12, "sampling": Sampling(seed=5)} | fields))  # type: ignore[arg-type]


async def read(backend: Backend, asked: Wish) -> list[Piece]:
    """All pieces of a text."""
    return [piece async for piece in backend.stream(asked)]


def text_of(pieces: list[Piece]) -> str:
    """The text of some pieces."""
    return "".join(piece.text for piece in pieces)
