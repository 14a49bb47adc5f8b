"""llama-server: the native endpoints besides the OpenAI ones."""

import json
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from tests.backends.fakes.openai_server import OpenAiServer
from tests.backends.fakes.server import BODY


class FakeLlamaServer(OpenAiServer):
    """One model, served under any name."""

    owner = "llamacpp"

    def __init__(self) -> None:
        super().__init__()
        self.models = ["toy"]
        self.loading = False

    def routes(self) -> list[web.RouteDef]:
        return [
            *super().routes(),
            web.get("/health", self.health),
            web.get("/props", self.props),
            web.post("/tokenize", self.tokenize),
            web.post("/detokenize", self.detokenize),
            web.post("/apply-template", self.apply_template),
            web.post("/completion", self.completion),
        ]

    def card(self, name: str) -> dict[str, Any]:
        meta = {
            "vocab_type": 2,
            "n_vocab": self.toy.size,
            "n_ctx_train": 8192,
            "n_params": 1000,
            "size": 2000,
            "ftype": "Q4_K_M",
        }
        return super().card(name) | {"meta": meta}

    async def health(self, request: web.Request) -> web.Response:
        if self.loading:
            return self.error(503, "Loading model")
        return web.json_response({"status": "ok"})

    async def props(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "default_generation_settings": {"id": 0, "n_ctx": self.toy.context, "params": {"n_predict": -1}},
                "total_slots": 4,
                "model_path": "/models/toy-1B-Q4_K_M.gguf",
                "chat_template": "{{ messages }}",
                "build_info": "b9999-abc",
            }
        )

    async def tokenize(self, request: web.Request) -> web.Response:
        body = request[BODY]
        tokens = self.toy.tokenize(body["content"], special=body.get("parse_special", True))
        return web.json_response({"tokens": tokens})

    async def detokenize(self, request: web.Request) -> web.Response:
        return web.json_response({"content": self.toy.text(request[BODY]["tokens"])})

    async def apply_template(self, request: web.Request) -> web.Response:
        return web.json_response({"prompt": self.toy.render(request[BODY]["messages"])})

    async def completion(self, request: web.Request) -> web.StreamResponse:
        body = request[BODY]
        prompt = body["prompt"]
        tokens = prompt if isinstance(prompt, list) else self.toy.tokenize(prompt, special=True)
        if len(tokens) >= self.toy.context:
            message = f"the request exceeds the available context size ({self.toy.context} tokens)"
            return self.error(400, message)
        return await self.stream(request, "text/event-stream", self._bits(body, tokens))

    async def _bits(self, body: dict[str, Any], tokens: list[int]) -> AsyncIterator[bytes]:
        shown, reason, stop = self.written(tokens, body, body.get("n_predict", -1))
        for one in shown:
            bit: dict[str, Any] = {"index": 0, "content": one.text, "tokens": [one.token], "stop": False}
            if body.get("n_probs"):
                entry = self._logprob(one.token, body["n_probs"])
                bit["completion_probabilities"] = [entry | {"id": one.token}]
            yield self.frame(json.dumps(bit).encode())
        end = {
            "index": 0,
            "content": "",
            "tokens": [],
            "stop": True,
            "stop_type": "word" if stop else {"stop": "eos", "length": "limit"}[reason],
            "stopping_word": stop,
            "tokens_predicted": len(shown),
            "tokens_evaluated": len(tokens),
            "timings": {"cache_n": len(tokens) // 2, "predicted_n": len(shown)},
        }
        yield self.frame(json.dumps(end).encode())
