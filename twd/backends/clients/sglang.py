"""SGLang: like vLLM, but it scores through its native /generate, from a given position on."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from twd.backends.clients.base import CompletionWish, Pieces, TextPiece, counted
from twd.backends.clients.dialect import sampling_body
from twd.backends.clients.openai_chunks import GIVEN_UP
from twd.backends.clients.upstream import SCORES_BYTES_MAX
from twd.backends.clients.upstream_errors import clean, words_of
from twd.backends.clients.vllm import VllmClient
from twd.backends.clients.weighing import PlaceChances
from twd.wire.base import Token
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import FinishReason

_UNKNOWN_ROOM: Final = 2048

Scored = tuple[float | None, Token, str | None]
"""A log probability, its token id, and the token's text if it was requested."""


class _Info(msgspec.Struct):
    version: str = ""


class _Finish(msgspec.Struct):
    type: str = ""
    matched: str | int | None = None
    message: Any = None


class _Meta(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    finish_reason: _Finish | None = None
    input_token_logprobs: list[Scored | None] | None = None
    input_top_logprobs: list[list[Scored] | None] | None = None
    output_token_logprobs: list[Scored] | None = None


class _Generated(msgspec.Struct):
    text: str = ""
    output_ids: list[Token] = []
    meta_info: _Meta = msgspec.field(default_factory=_Meta)
    error: Any = None


class SglangClient(VllmClient):
    """A target that verifies drafts with `logprob_start_len`."""

    kind = "sglang"

    async def version(self) -> str:
        """Its version; empty for old servers that do not report it."""
        try:
            return (await self.upstream.get(f"{self.root}/get_server_info", _Info)).version
        except TwdError as error:
            if error.code is not FailureCode.BACKEND_BROKEN:
                raise
            return ""

    def stream(self, wish: CompletionWish) -> Pieces:
        """Given tokens are sent to the native endpoint, which returns the ids of new tokens."""
        plain = wish.grammar is None and wish.logprobs is None and not wish.sampling.logit_bias
        if wish.prompt.tokens is None or not plain:
            return super().stream(wish)
        return self._generate(wish)

    async def _generate(self, wish: CompletionWish) -> Pieces:
        tokens = list(wish.prompt.tokens or ())
        params = sampling_body(wish.sampling, self.dialect)
        if "seed" in params:
            params["sampling_seed"] = params.pop("seed")
        room = max(1, self.context - len(tokens) - 1) if self.context else _UNKNOWN_ROOM
        params |= {"stop": list(wish.stop), "ignore_eos": wish.ignore_eos}
        params["max_new_tokens"] = room if wish.max_tokens is None else wish.max_tokens
        body = {"input_ids": tokens, "sampling_params": params, "stream": True}
        shown, told = "", 0
        async with self.upstream.open("POST", f"{self.root}/generate", body) as answer:
            async for data in answer.events():
                if data.strip() == b"[DONE]":
                    break
                step = self.upstream.decode(data, _Generated)
                if step.error:
                    raise self.upstream.broken(f"failed in the middle: {clean(words_of(step.error))}")
                finish = step.meta_info.finish_reason
                if finish is not None and finish.type in GIVEN_UP:
                    raise self.upstream.broken(f"gave up in the middle: {clean(words_of(finish.message))}")
                whole = _repeats(step, shown)
                tokens = step.output_ids[told:] if whole else step.output_ids
                text = step.text[len(shown) :] if whole else step.text
                shown, told = shown + text, told + len(tokens)
                if text or tokens:
                    yield TextPiece(text=text, tokens=tokens)
                if finish is not None:
                    answer.complete = True
                    yield _end(step.meta_info)
                    return
        raise self.upstream.broken("broke off in the middle of its answer")

    async def _told(self, tokens: Sequence[int], first: int, top: int) -> tuple[list[PlaceChances], int]:
        """One request; only the positions from `first` on are returned."""
        answer = await self._choose(tokens, return_logprob=True, logprob_start_len=first, top_logprobs_num=top)
        meta, wanted = answer.meta_info, len(tokens) - 1 - first
        stood, tops = meta.input_token_logprobs or [], meta.input_top_logprobs or []
        if min(len(stood), len(tops)) < wanted:
            raise self.upstream.broken(f"told the chances of {min(len(stood), len(tops))} places of {wanted}")
        there = stood[len(stood) - wanted :]
        if [entry[1] for entry in there if entry is not None] != list(tokens[first + 1 :]):
            raise self.upstream.broken("told the chances of other tokens than the prompt's")
        within = [self._place_of(*pair) for pair in zip(there, tops[len(tops) - wanted :], strict=True)]
        return within, self._chosen(answer)

    async def is_end(self, tokens: Sequence[int], token: int) -> bool:
        """Let it choose once more and check whether it stops."""
        answer = await self._choose(tokens, return_logprob=True, logprob_start_len=-1)
        finish = answer.meta_info.finish_reason
        return finish is not None and finish.type == "stop" and self._chosen(answer) == token

    async def _choose(self, tokens: Sequence[int], **fields: Any) -> _Generated:
        params = {"temperature": 0.0, "max_new_tokens": 1}
        body = {"input_ids": list(tokens), "sampling_params": params, **fields}
        return await self.upstream.post(f"{self.root}/generate", body, _Generated, limit=SCORES_BYTES_MAX)

    def _place_of(self, stood: Scored | None, tops: list[Scored] | None) -> PlaceChances:
        if not tops:
            raise self.upstream.broken("did not tell what it would have chosen")
        told = tops if stood is None else (stood, *tops)
        return PlaceChances(tops[0][1], {token: chance for chance, token, _ in told if chance is not None})

    def _chosen(self, answer: _Generated) -> int:
        scored = answer.meta_info.output_token_logprobs
        if scored:
            return scored[0][1]
        if answer.output_ids:
            return answer.output_ids[0]
        raise self.upstream.broken("did not tell the id of the token that it chose")


def _repeats(step: _Generated, shown: str) -> bool:
    """Whether events contain the whole text so far instead of only the new part."""
    if step.output_ids:
        return len(step.output_ids) >= step.meta_info.completion_tokens
    return step.text.startswith(shown)


def _end(meta: _Meta) -> TextPiece:
    finish = meta.finish_reason or _Finish()
    return TextPiece(
        end=FinishReason.LENGTH if finish.type == "length" else FinishReason.STOP,
        stop=finish.matched if isinstance(finish.matched, str) else "",
        usage=counted(meta.prompt_tokens, meta.completion_tokens, meta.cached_tokens),
    )
