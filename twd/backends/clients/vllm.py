"""vLLM: chats and completions, token ids, and the model's choices at every position of a prompt."""

from collections.abc import Sequence
from typing import Any

import msgspec

from twd.backends.clients.base import Capabilities, CompletionWish, Pieces
from twd.backends.clients.dialect import GPU_SERVER, chat_body, text_body
from twd.backends.clients.openai_chunks import ChunkChoice, CompletionChunk
from twd.backends.clients.openai_compatible import OpenAiClient
from twd.backends.clients.upstream import SCORES_BYTES_MAX
from twd.backends.clients.weighing import TOP, PlaceChances, TokenWeight
from twd.wire.base import Token
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import ChatMessage, Prompt

_ID = "token_id:"


class _Version(msgspec.Struct):
    version: str = ""


class _Tokens(msgspec.Struct):
    tokens: list[Token]


class _Text(msgspec.Struct):
    prompt: str | None = None
    text: str | None = None


class VllmClient(OpenAiClient):
    """A target that verifies drafts with `prompt_logprobs`."""

    kind = "vllm"
    dialect = GPU_SERVER

    async def probe(self) -> Capabilities:
        """Read its model and version; scoring and tokenizing are tested, not assumed."""
        listed = await self.find_model()
        version = await self.version()
        return Capabilities(
            kind=self.kind,
            model=self.model,
            context=listed.context,
            version=version,
            tokens=await self._works(self.tokenize("one two")),
            score=(scores := await self._scores()),
            weighs=scores,
            renders=await self._works(self.render(Prompt(messages=[ChatMessage(role="user", content="one")]))),
            note="every check reads the whole prompt again, so it pays for long guesses on short prompts",
        )

    async def version(self) -> str:
        """The version that it reports."""
        return (await self.upstream.get(f"{self.root}/version", _Version)).version

    async def _works(self, attempt: Any) -> bool:
        try:
            return bool(await attempt)
        except TwdError as error:
            if error.code in (FailureCode.BACKEND_DOWN, FailureCode.DEADLINE, FailureCode.BUSY):
                raise
            return False

    async def _scores(self) -> bool:
        async def attempt() -> bool:
            tokens = await self.tokenize("one two three four")
            return len(await self.score(tokens, 0)) == len(tokens)

        return await self._works(attempt())

    def stream(self, wish: CompletionWish) -> Pieces:
        """Like any OpenAI server; texts come with their token ids."""
        if wish.prompt.messages is not None:
            return super().stream(wish)
        body = text_body(self.model, wish, self.dialect) | {"return_token_ids": True}
        if wish.prompt.tokens is not None:
            body["add_special_tokens"] = False
        body.setdefault("max_tokens", None)  # up to the end of the context; the server's default is 16
        return self.continue_text(f"{self.api}/completions", body)

    async def score(self, tokens: Sequence[int], first: int) -> list[int]:
        """One request with the whole text as its prompt."""
        places, choice = await self._told(tokens, first, 1)
        return [*(place.choice for place in places), choice]

    async def weigh(self, tokens: Sequence[int], first: int) -> tuple[list[TokenWeight], int]:
        """The same request, for more tokens of each position."""
        places, choice = await self._told(tokens, first, TOP)
        weights = [place.weight_of(token) for place, token in zip(places, tokens[first + 1 :], strict=True)]
        known = [weight for weight in weights if weight is not None]
        if len(known) < len(weights):
            raise self.upstream.broken("told chances that are no numbers")
        return known, choice

    async def _told(self, tokens: Sequence[int], first: int, top: int) -> tuple[list[PlaceChances], int]:
        """What it tells of each position after `first`, and its choice after the last one."""
        choice = await self._one_more(tokens, prompt_logprobs=top)
        told = choice.prompt_logprobs or []
        if len(told) != len(tokens):
            raise self.upstream.broken(f"told the chances of {len(told)} tokens for a prompt of {len(tokens)}")
        within = [self._place(told[place], tokens[place]) for place in range(first + 1, len(tokens))]
        return within, self._generated(choice)

    async def is_end(self, tokens: Sequence[int], token: int) -> bool:
        """Let it choose once more and check whether it stops."""
        choice = await self._one_more(tokens)
        return choice.finish_reason == "stop" and self._generated(choice) == token

    async def _one_more(self, tokens: Sequence[int], **fields: Any) -> ChunkChoice:
        body = {
            "model": self.model,
            "prompt": list(tokens),
            "add_special_tokens": False,
            "max_tokens": 1,
            "temperature": 0.0,
            "repetition_penalty": 1.0,
            "logprobs": 1,
            "return_tokens_as_token_ids": True,
            **fields,
        }
        answer = await self.upstream.post(f"{self.api}/completions", body, CompletionChunk, limit=SCORES_BYTES_MAX)
        if not answer.choices:
            raise self.upstream.broken("answered without a choice")
        return answer.choices[0]

    def _place(self, told: dict[str, Any] | None, token: int) -> PlaceChances:
        """The tokens returned for a position; the token of the text itself must be among them."""
        try:
            chances = {int(name): float(entry["logprob"]) for name, entry in (told or {}).items()}
        except (TypeError, ValueError, KeyError, OverflowError):
            raise self.upstream.broken("told chances that cannot be read") from None
        if token not in chances:
            raise self.upstream.broken(f"told the chances of other tokens than the prompt's (token {token} is missing)")
        best = max(chances.values())
        return PlaceChances(min(one for one, chance in chances.items() if chance == best), chances)

    def _generated(self, choice: ChunkChoice) -> int:
        """The id of the one generated token."""
        names = (choice.logprobs.tokens if choice.logprobs else None) or []
        if len(names) != 1 or not names[0].startswith(_ID) or not names[0][len(_ID) :].isdecimal():
            raise self.upstream.broken("did not tell the id of the token that it chose")
        return int(names[0][len(_ID) :])

    async def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """POST /tokenize. This server always turns spelled-out control tokens into tokens."""
        body = {"model": self.model, "prompt": text, "add_special_tokens": False}
        return (await self.upstream.post(f"{self.root}/tokenize", body, _Tokens)).tokens

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """POST /detokenize."""
        found = await self.upstream.post(
            f"{self.root}/detokenize", {"model": self.model, "tokens": list(tokens)}, _Text
        )
        text = found.prompt if found.prompt is not None else found.text
        if text is None:
            raise self.upstream.broken("turned tokens into nothing")
        return text

    async def render(self, prompt: Prompt) -> list[int]:
        """POST /tokenize with the conversation."""
        if prompt.messages is None:
            return list(prompt.tokens) if prompt.tokens is not None else await self._with_start(prompt.text or "")
        body = self.conversation(prompt) | {"model": self.model, "add_special_tokens": False}
        return (await self.upstream.post(f"{self.root}/tokenize", body, _Tokens)).tokens

    def conversation(self, prompt: Prompt) -> dict[str, Any]:
        """The fields of a chat request that affect what its chat template renders."""
        body = chat_body(self.model, CompletionWish(prompt=prompt), self.dialect)
        names = ("messages", "tools", "chat_template_kwargs", "continue_final_message", "add_generation_prompt")
        return {"add_generation_prompt": True} | {name: body[name] for name in names if name in body}

    async def _with_start(self, text: str) -> list[int]:
        """A raw text with the beginning-of-text token in front, if this model uses one."""
        body = {"model": self.model, "prompt": text, "add_special_tokens": True}
        return (await self.upstream.post(f"{self.root}/tokenize", body, _Tokens)).tokens
