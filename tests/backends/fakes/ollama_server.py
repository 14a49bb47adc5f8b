"""Ollama: JSON lines instead of events, and its own names for everything."""

import json
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from tests.backends.fakes.server import BODY, Server
from tests.backends.fakes.toy import Generated


class FakeOllama(Server):
    """The native API."""

    def __init__(self) -> None:
        super().__init__()
        self.models = ["toy:latest", "other:1b"]
        self.thoughts = ""
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.capabilities = ["completion", "tools"]

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", self.root),
            web.get("/api/version", self.version),
            web.get("/api/tags", self.tags),
            web.get("/v1/models", self.listed),
            web.post("/api/show", self.show),
            web.post("/api/generate", self.generate),
            web.post("/api/chat", self.chat),
        ]

    def error(self, status: int, message: str) -> web.Response:
        return web.json_response({"error": message}, status=status)

    def frame(self, data: bytes) -> bytes:
        error = json.loads(data)["error"]["message"] if data.startswith(b'{"error"') else None
        return (data if error is None else json.dumps({"error": error}).encode()) + b"\n"

    async def root(self, request: web.Request) -> web.Response:
        return web.Response(text="Ollama is running")

    async def version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "0.12.11"})

    async def tags(self, request: web.Request) -> web.Response:
        details = {"format": "gguf", "family": "llama", "families": None, "quantization_level": "Q4_0"}
        return web.json_response(
            {"models": [{"name": name, "size": 3_825_819_519, "details": details} for name in self.models]}
        )

    async def listed(self, request: web.Request) -> web.Response:
        cards = [{"id": name, "object": "model", "created": 1, "owned_by": "library"} for name in self.models]
        return web.json_response({"object": "list", "data": cards})

    async def show(self, request: web.Request) -> web.Response:
        if request[BODY]["model"] not in (*self.models, "toy"):
            return self.error(404, f"model '{request[BODY]['model']}' not found")
        return web.json_response(
            {
                "parameters": 'stop                           "<|im_end|>"\nnum_ctx                        4096',
                "template": "{{ .Prompt }}",
                "details": {"family": "llama", "quantization_level": "Q4_0"},
                "capabilities": self.capabilities,
                "model_info": {
                    "general.architecture": "llama",
                    "general.parameter_count": 8_030_261_248,
                    "llama.context_length": 8192,
                    "llama.vocab_size": self.toy.size,
                    "tokenizer.ggml.tokens": None,
                },
            }
        )

    async def generate(self, request: web.Request) -> web.StreamResponse:
        body = request[BODY]
        assert body["raw"] is True
        tokens = self.toy.tokenize(body["prompt"], special=True)
        return await self._answer(request, tokens, lambda text: {"response": text})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        messages = [dict(message) for message in request[BODY]["messages"]]
        for message in messages:
            for call in message.get("tool_calls", ()):
                assert isinstance(call["function"]["arguments"], dict)
        prefill = messages.pop()["content"] if messages[-1]["role"] == "assistant" else ""
        tokens = self.toy.tokenize(self.toy.render(messages) + prefill, special=True)
        return await self._answer(request, tokens, lambda text: {"message": {"role": "assistant", "content": text}})

    async def _answer(self, request: web.Request, tokens: list[int], wrap: Any) -> web.StreamResponse:
        body = request[BODY]
        if len(tokens) >= self.toy.context:
            if body.get("truncate") is False:
                return self.error(400, "the input length exceeds the context length")
            tokens = tokens[-self.toy.context // 2 :]
        options = body.get("options", {})
        shown, reason, _ = self.written(tokens, options, options.get("num_predict"))
        return await self.stream(request, "application/x-ndjson", self._lines(tokens, shown, reason, wrap))

    async def _lines(self, tokens: list[int], shown: list[Generated], reason: str, wrap: Any) -> AsyncIterator[bytes]:
        stamp = {"model": "toy", "created_at": "2026-01-01T00:00:00Z"}
        for word in self.thoughts.split():
            message: dict[str, Any] = {"role": "assistant", "content": "", "thinking": word + " "}
            yield self._line(stamp | {"message": message, "done": False})
        for one in shown:
            yield self._line(stamp | wrap(one.text) | {"done": False})
        for name, arguments in self.calls:
            call = {"function": {"name": name, "arguments": arguments}}
            message = {"role": "assistant", "content": "", "tool_calls": [call]}
            yield self._line(stamp | {"message": message, "done": False})
        counts = {"prompt_eval_count": len(tokens), "eval_count": len(shown), "eval_duration": 1000}
        yield self._line(stamp | wrap("") | {"done": True, "done_reason": reason} | counts)

    def _line(self, value: dict[str, Any]) -> bytes:
        return json.dumps(value).encode() + b"\n"
