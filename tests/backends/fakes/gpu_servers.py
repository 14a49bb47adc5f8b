"""vLLM and SGLang: what they add to OpenAI's API, above all the scores of given tokens."""

import json
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from tests.backends.fakes.openai_server import OpenAiServer
from tests.backends.fakes.server import BODY
from tests.backends.fakes.toy import Generated


class FakeVllm(OpenAiServer):
    """`prompt_logprobs`, token ids, tokenizing."""

    owner = "vllm"

    def __init__(self) -> None:
        super().__init__()
        self.renders = True
        self.told_ids = True
        self.shift = 0
        """A bug of this many places in its scores."""

    def routes(self) -> list[web.RouteDef]:
        return [
            *super().routes(),
            web.get("/version", self.version),
            web.post("/tokenize", self.tokenize),
            web.post("/detokenize", self.detokenize),
        ]

    def card(self, name: str) -> dict[str, Any]:
        return super().card(name) | {"max_model_len": self.toy.context, "root": name}

    async def version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "0.15.0"})

    async def tokenize(self, request: web.Request) -> web.Response:
        body = request[BODY]
        if "messages" in body:
            if not self.renders:
                return self.error(400, "field required: prompt")
            messages = list(body["messages"])
            goes_on = body.get("continue_final_message")
            prefill = messages.pop()["content"] if goes_on else ""
            text = self.toy.render(messages, ask=bool(goes_on) or body["add_generation_prompt"]) + prefill
        else:
            text = body["prompt"]
        tokens = self.toy.tokenize(text, special=True)
        return web.json_response({"tokens": tokens, "count": len(tokens), "max_model_len": self.toy.context})

    async def detokenize(self, request: web.Request) -> web.Response:
        tokens = request[BODY]["tokens"]
        raw = b"".join(
            self.toy.piece(token) if token < self.toy.end else self.toy.spelled(token).encode() for token in tokens
        )
        text = raw.decode("utf-8", "replace")
        return web.json_response({self.detokenized: text.lstrip(" ") if self.strips else text})

    detokenized = "prompt"
    strips = True
    """As tokenizers of the SentencePiece kind do with the first space."""

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = request[BODY]
        if body.get("stream") or body.get("echo"):
            return await super().complete(request)
        if body.get("model") not in self.models:
            return self.error(404, "no such model")
        return self._choose_once(body)

    def _choose_once(self, body: dict[str, Any]) -> web.Response:
        tokens = body["prompt"]
        assert body["max_tokens"] == 1
        assert body["temperature"] == 0
        chosen = self.toy.next(tokens)
        name = f"token_id:{chosen}" if body.get("return_tokens_as_token_ids") else self.toy.spelled(chosen)
        choice: dict[str, Any] = {
            "index": 0,
            "text": self.toy.text([chosen]),
            "finish_reason": "stop" if chosen >= self.toy.end else "length",
            "stop_reason": None,
            "logprobs": {"tokens": [name], "token_logprobs": [-0.1], "top_logprobs": [{name: -0.1}]},
        }
        if body.get("prompt_logprobs") is not None:
            choice["prompt_logprobs"] = [None, *(self._told(tokens, place) for place in range(1, len(tokens)))]
        return web.json_response({"id": "x", "choices": [choice], "usage": {"prompt_tokens": len(tokens)}})

    def _told(self, tokens: list[int], place: int) -> dict[str, Any]:
        best, stands = self.toy.next(tokens[:place]), tokens[place - self.shift]
        told = {best: -0.1}
        told |= {stands: -3.5} if stands != best else {}
        return {
            str(token): {"logprob": chance, "rank": rank + 1, "decoded_token": self.toy.spelled(token)}
            for rank, (token, chance) in enumerate(told.items())
        }

    def own_fields(self, tokens: list[Generated], body: dict[str, Any], stop: str) -> dict[str, Any]:
        fields: dict[str, Any] = {"stop_reason": stop or None}
        if body.get("return_token_ids") and self.told_ids:
            fields["token_ids"] = [one.token for one in tokens]
        return fields


class FakeSglang(FakeVllm):
    """The native /generate with `logprob_start_len`."""

    owner = "sglang"
    detokenized = "text"
    strips = False

    def __init__(self) -> None:
        super().__init__()
        self.renders = False
        self.cumulative = True

    def routes(self) -> list[web.RouteDef]:
        return [
            *super().routes(),
            web.get("/get_server_info", self.info),
            web.get("/get_model_info", self.model_info),
            web.post("/generate", self.generate),
        ]

    async def version(self, request: web.Request) -> web.Response:
        return self.error(404, "Not Found")

    async def info(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "0.5.6", "model_path": "toy", "internal_states": []})

    async def model_info(self, request: web.Request) -> web.Response:
        return web.json_response({"model_path": "toy", "tokenizer_path": "toy", "is_generation": True})

    async def generate(self, request: web.Request) -> web.StreamResponse:
        body = request[BODY]
        params = body["sampling_params"]
        tokens = body["input_ids"]
        assert params.get("top_k", -1) == -1 or params["top_k"] > 0
        if len(tokens) >= self.toy.context:
            message = f"Input length ({len(tokens)}) exceeds the maximum context length ({self.toy.context})"
            return self.error(400, message)
        if body.get("stream"):
            asked = params | {"seed": params.get("sampling_seed")}
            frames = self._steps(tokens, *self.written(tokens, asked, params["max_new_tokens"]))
            return await self.stream(request, "text/event-stream", frames)
        return web.json_response(self._scored(body, tokens))

    async def _steps(self, tokens: list[int], shown: list[Generated], reason: str, stop: str) -> AsyncIterator[bytes]:
        for count in range(1, len(shown) + 1):
            last = count == len(shown)
            yield self._step(tokens, shown[:count], self._finish(reason, stop, count) if last else None)
        if not shown:
            yield self._step(tokens, [], self._finish(reason, stop, 0))
        yield self.frame(b"[DONE]")

    def _finish(self, reason: str, stop: str, count: int) -> dict[str, Any]:
        if reason == "length":
            return {"type": "length", "length": count}
        return {"type": "stop", "matched": stop or self.toy.control["<|im_end|>"]}

    def _step(self, tokens: list[int], shown: list[Generated], finish: dict[str, Any] | None) -> bytes:
        told = shown if self.cumulative else shown[-1:]
        meta = {
            "id": "x",
            "finish_reason": finish,
            "prompt_tokens": len(tokens),
            "completion_tokens": len(shown),
            "cached_tokens": 1,
        }
        text = "".join(one.text for one in told)
        ids = [one.token for one in told]
        return self.frame(json.dumps({"text": text, "output_ids": ids, "meta_info": meta}).encode())

    def _scored(self, body: dict[str, Any], tokens: list[int]) -> dict[str, Any]:
        assert body["sampling_params"] == {"temperature": 0.0, "max_new_tokens": 1}
        chosen = self.toy.next(tokens)
        start = body.get("logprob_start_len", -1)
        start = len(tokens) - 1 if start < 0 else start
        meta: dict[str, Any] = {
            "prompt_tokens": len(tokens),
            "completion_tokens": 1,
            "cached_tokens": start,
            "finish_reason": self._finish("stop" if chosen >= self.toy.end else "length", "", 1),
            "output_token_logprobs": [[-0.1, chosen, None]],
            "output_top_logprobs": [[[-0.1, chosen, None]]],
        }
        if body.get("return_logprob"):
            places = range(start + 1, len(tokens))
            stood = [[-3.5, tokens[place - self.shift], None] for place in places]
            meta["input_token_logprobs"] = [[None, tokens[start], None], *stood]
            tops = [[[-0.1, self.toy.next(tokens[:place]), None]] for place in places]
            meta["input_top_logprobs"] = [None, *tops]
        return {"text": self.toy.text([chosen]), "output_ids": [chosen], "meta_info": meta}
