"""Every adapter with the fake of its server: what the contract suite runs over."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.backends.fakes.gpu_servers import FakeSglang, FakeVllm
from tests.backends.fakes.llama_server import FakeLlamaServer
from tests.backends.fakes.ollama_server import FakeOllama
from tests.backends.fakes.openai_server import OpenAiServer
from tests.backends.fakes.server import Server
from twd.backends.clients.base import Backend, CompletionWish, TextPiece
from twd.backends.clients.echo import EchoClient
from twd.backends.clients.llama_server import LlamaServerClient
from twd.backends.clients.ollama import OllamaClient
from twd.backends.clients.openai_compatible import OpenAiClient
from twd.backends.clients.sglang import SglangClient
from twd.backends.clients.upstream import UpstreamServer
from twd.backends.clients.vllm import VllmClient
from twd.wire.job import Prompt, Sampling


@dataclass(frozen=True)
class Rig:
    """How to make a server and its adapter."""

    server: Callable[[], Server]
    backend: Callable[[UpstreamServer, str], Backend]
    chats_at: str
    completes_at: str


def echoing() -> OpenAiServer:
    """A server that echoes prompts with log probabilities."""
    server = OpenAiServer()
    server.scores = True
    return server


RIGS = {
    "openai": Rig(OpenAiServer, OpenAiClient, "/chat/completions", "/completions"),
    "echo": Rig(echoing, EchoClient, "/chat/completions", "/completions"),
    "llamacpp": Rig(FakeLlamaServer, LlamaServerClient, "/chat/completions", "/completion"),
    "ollama": Rig(FakeOllama, OllamaClient, "/api/chat", "/api/generate"),
    "vllm": Rig(FakeVllm, VllmClient, "/chat/completions", "/completions"),
    "sglang": Rig(FakeSglang, SglangClient, "/chat/completions", "/completions"),
}


def wish(text: str = "once upon", **fields: object) -> CompletionWish:
    """A text to be continued by a few tokens."""
    prompt = fields.pop("prompt", None) or Prompt(text=text)
    return CompletionWish(**({"prompt": prompt, "max_tokens": 12, "sampling": Sampling(seed=5)} | fields))  # type: ignore[arg-type]


async def read(backend: Backend, asked: CompletionWish) -> list[TextPiece]:
    """All pieces of a text."""
    return [piece async for piece in backend.stream(asked)]


def text_of(pieces: list[TextPiece]) -> str:
    """The text of some pieces."""
    return "".join(piece.text for piece in pieces)
