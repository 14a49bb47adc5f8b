"""OpenAI's API as other servers offer it: models, chats, completions; with `scores`, echo and logprobs as well."""

import json
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from tests.backends.fakes.server import BODY, Server
from tests.backends.fakes.toy import Generated


class OpenAiServer(Server):
    """Streams like a cloud or LM Studio does."""

    owner = "somebody"
    prefix = "/v1"

    def __init__(self) -> None:
        super().__init__()
        self.models = ["toy", "other"]
        self.scores = False
        self.unknown_fields: set[str] = set()
        self.thoughts = ""
        self.calls: list[tuple[str, str]] = []
        self.streams = True

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get(f"{self.prefix}/models", self.list_models),
            web.post(f"{self.prefix}/chat/completions", self.chat),
            web.post(f"{self.prefix}/completions", self.complete),
        ]

    def card(self, name: str) -> dict[str, Any]:
        """One model in the list."""
        return {"id": name, "object": "model", "created": 1, "owned_by": self.owner}

    async def list_models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [self.card(name) for name in self.models]})

    def _refusal(self, body: dict[str, Any]) -> web.Response | None:
        if body.get("model") not in self.models:
            return self.error(404, f"The model `{body.get('model')}` does not exist")
        unknown = sorted(self.unknown_fields & body.keys())
        if unknown:
            hint = ". Use 'max_completion_tokens' instead" if "max_tokens" in unknown else ""
            return self.error(400, f"Unsupported parameter: '{unknown[0]}'{hint}")
        return None

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = request[BODY]
        refusal = self._refusal(body)
        if refusal is not None:
            return refusal
        messages = list(body["messages"])
        prefill = messages.pop()["content"] if messages[-1]["role"] == "assistant" else ""
        prompt = self.toy.tokenize(self.toy.render(messages) + prefill, special=True)
        return await self._answer(request, body, prompt, chat=True)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = request[BODY]
        refusal = self._refusal(body)
        if refusal is not None:
            return refusal
        prompt = body["prompt"]
        tokens = prompt if isinstance(prompt, list) else self.toy.tokenize(prompt, special=True)
        if len(tokens) >= self.toy.context:
            return self.error(400, f"This model's maximum context length is {self.toy.context} tokens")
        if body.get("echo"):
            return self._echo(body, tokens)
        return await self._answer(request, body, tokens, chat=False)

    async def _answer(
        self, request: web.Request, body: dict[str, Any], prompt: list[int], *, chat: bool
    ) -> web.StreamResponse:
        limit = body.get("max_tokens", body.get("max_completion_tokens"))
        if limit is None and not chat:
            limit = 16
        shown, reason, stop = self.written(prompt, body, limit)
        usage = {
            "prompt_tokens": len(prompt),
            "completion_tokens": len(shown),
            "total_tokens": len(prompt) + len(shown),
            "prompt_tokens_details": {"cached_tokens": len(prompt) // 2},
        }
        if not body.get("stream") or not self.streams:
            text = "".join(one.text for one in shown)
            choice = self._choice(chat, text, reason, whole=True, tokens=shown, body=body, stop=stop)
            return web.json_response({"id": "x", "choices": [choice], "usage": usage})
        frames = self._frames(body, shown, reason, stop, usage, chat)
        return await self.stream(request, "text/event-stream; charset=utf-8", frames)

    async def _frames(
        self, body: dict[str, Any], shown: list[Generated], reason: str, stop: str, usage: Any, chat: bool
    ) -> AsyncIterator[bytes]:
        if chat:
            yield self._chunk({"delta": {"role": "assistant", "content": ""}})
            for word in self.thoughts.split():
                yield self._chunk({"delta": {"reasoning_content": word + " "}})
        for one in shown:
            yield self._chunk(self._choice(chat, one.text, None, whole=False, tokens=[one], body=body))
        if chat:
            for frame in self._call_frames():
                yield frame
        yield self._chunk(self._choice(chat, "", reason, whole=False, tokens=[], body=body, stop=stop))
        if (body.get("stream_options") or {}).get("include_usage"):
            yield self.frame(json.dumps({"id": "x", "choices": [], "usage": usage}).encode())
        yield self.frame(b"[DONE]")

    def _call_frames(self) -> list[bytes]:
        frames = []
        for index, (name, arguments) in enumerate(self.calls):
            start = {"index": index, "id": f"c{index}", "type": "function", "function": {"name": name, "arguments": ""}}
            frames.append(self._chunk({"delta": {"tool_calls": [start]}}))
            for at in range(0, len(arguments), 5):
                part = {"index": index, "function": {"arguments": arguments[at : at + 5]}}
                frames.append(self._chunk({"delta": {"tool_calls": [part]}}))
        return frames

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        return self.frame(json.dumps({"id": "x", "choices": [{"index": 0, "finish_reason": None} | choice]}).encode())

    def _choice(
        self,
        chat: bool,
        text: str,
        reason: str | None,
        *,
        whole: bool,
        tokens: list[Generated],
        body: dict[str, Any],
        stop: str = "",
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
        if chat:
            choice["message" if whole else "delta"] = {"role": "assistant", "content": text} if text or whole else {}
            if body.get("logprobs") and tokens:
                top = body.get("top_logprobs") or 0
                choice["logprobs"] = {"content": [self._logprob(one.token, top) for one in tokens]}
        else:
            choice["text"] = text
        return choice | self.own_fields(tokens, body, stop)

    def own_fields(self, tokens: list[Generated], body: dict[str, Any], stop: str) -> dict[str, Any]:
        """What a kind of server adds to its choices."""
        return {}

    def _logprob(self, token: int, top: int) -> dict[str, Any]:
        entry = {"token": self.toy.spelled(token), "logprob": -0.25, "bytes": list(self.toy.piece(token))}
        return entry | {"top_logprobs": [entry | {"logprob": -0.25 - i} for i in range(top)]}

    def _echo(self, body: dict[str, Any], prompt: list[int]) -> web.Response:
        """The prompt with the log probabilities of its tokens, then what follows."""
        if not self.scores:
            return self.error(400, "echo is not supported")
        shown, reason, _ = self.written(prompt, body, body.get("max_tokens", 16))
        tokens = [*prompt, *(one.token for one in shown)]
        texts = [self.toy.spelled(token) for token in tokens]
        offsets = [sum(map(len, texts[:index])) for index in range(len(texts))]
        tops: list[dict[str, float] | None] = [None]
        for at in range(1, len(tokens)):
            best = self.toy.spelled(self.toy.next(tokens[:at]))
            tops.append({best: -0.1} | ({texts[at]: -2.5} if texts[at] != best else {}))
        logprobs = {
            "tokens": texts,
            "text_offset": offsets,
            "top_logprobs": tops,
            "token_logprobs": [None, *[(top or {}).get(text) for top, text in zip(tops[1:], texts[1:], strict=True)]],
        }
        given = body["prompt"] if isinstance(body["prompt"], str) else self.toy.text(prompt)
        text = given + "".join(one.text for one in shown)
        choice = {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": reason}
        return web.json_response({"id": "x", "choices": [choice]})
