"""Three grammar engines behind one interface: twd's automaton, llguidance and xgrammar."""

import json
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Protocol
from unittest.mock import MagicMock

import numpy as np

from twd.engine.vocab import Vocab
from twd.structured_output.forced_tokens import ForcedTokens
from twd.structured_output.state import GrammarCache, GrammarState
from twd.wire.failures import TwdError
from twd.wire.job import Grammar, GrammarKind

KINDS = {"json": GrammarKind.JSON_SCHEMA, "gbnf": GrammarKind.GBNF}


class Refused(Exception):
    """The engine does not take this grammar."""


class Follower(Protocol):
    """One text on its way through one grammar."""

    def mask(self) -> int:
        """Compute which tokens may come next; how many they are."""

    def forced(self) -> list[int]:
        """The tokens that must come next."""

    def push(self, token: int) -> bool:
        """The text goes on; False where the grammar does not allow it."""

    def ends(self) -> bool:
        """Whether the text may end here."""


class GrammarEngine(Protocol):
    """A library that compiles grammars for one vocabulary."""

    def follow(self, kind: str, text: str) -> Follower:
        """Compile a grammar; raises Refused."""


class Bytes:
    """A vocabulary of 256 single bytes and one end token."""

    size = 257
    end_tokens = frozenset([256])
    special_tokens: dict[str, int] = {}

    def piece(self, token: int) -> bytes:
        """The bytes of a token."""
        return bytes([token]) if token < 256 else b""

    def continued(self, text: str) -> list[int]:
        """The tokens of a text."""
        return list(text.encode())


class TwdFollower:
    """A text in twd's automaton."""

    def __init__(self, vocab: Any, grammars: GrammarCache, grammar: Grammar) -> None:
        compiled = grammars.compiled(grammar)
        self._state = GrammarState(compiled)
        self._compiled = compiled
        self._forced = ForcedTokens(compiled, vocab.piece, vocab.continued)
        self._end = min(vocab.end_tokens)
        self._tokens: list[int] = []

    def mask(self) -> int:
        return len(self._state.allowed(self._tokens))

    def forced(self) -> list[int]:
        return self._forced.propose(64)[0]

    def push(self, token: int) -> bool:
        if not self._state.allows(self._tokens, token):
            return False
        self._tokens.append(token)
        self._forced.extend([token])
        return True

    def ends(self) -> bool:
        return self._state.allows(self._tokens, self._end)


class TwdEngine:
    """twd's own."""

    def __init__(self, vocab: Any) -> None:
        self._vocab = vocab
        self._grammars = GrammarCache(vocab)
        self._grammars.prepare()

    def follow(self, kind: str, text: str) -> TwdFollower:
        grammars = GrammarCache(self._vocab)
        grammars.__dict__["trie"] = self._grammars.trie  # made once for a vocabulary
        try:
            return TwdFollower(self._vocab, grammars, Grammar(kind=KINDS[kind], text=text))
        except TwdError as error:
            raise Refused(str(error)) from None


class LlguidanceFollower:
    """A text in llguidance's matcher."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def mask(self) -> int:
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            raise RuntimeError(self._matcher.get_error())
        return int(np.unpackbits(bits).sum())

    def forced(self) -> list[int]:
        return list(self._matcher.compute_ff_tokens())

    def push(self, token: int) -> bool:
        return bool(self._matcher.try_consume_tokens([token]) == 1)

    def ends(self) -> bool:
        return bool(self._matcher.is_accepting())


class LlguidanceEngine:
    """llguidance, as vLLM, SGLang and llama.cpp use it."""

    options: ClassVar[dict[str, Any]] = {}

    def __init__(self, vocab: Any) -> None:
        import llguidance

        self._library = llguidance
        self._tokenizer = llguidance.LLTokenizer("byte") if isinstance(vocab, Bytes) else _of_llama(vocab)

    def follow(self, kind: str, text: str) -> LlguidanceFollower:
        from llguidance.gbnf_to_lark import any_to_lark

        maker = self._library.LLMatcher
        options = self.options
        try:
            if kind == "json":
                made = maker.grammar_from_json_schema(text, overrides=options)
            else:
                made = maker.grammar_from_lark(any_to_lark(text))
        except Exception as error:  # noqa: BLE001 - whatever it raises is a refusal
            raise Refused(str(error)) from None
        matcher = maker(self._tokenizer, made, log_level=0)
        if matcher.is_error():
            raise Refused(matcher.get_error())
        return LlguidanceFollower(matcher)


class LlguidanceFixedBlanks(LlguidanceEngine):
    """llguidance where a schema also says which blanks stand in the text."""

    options: ClassVar[dict[str, Any]] = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def _of_llama(vocab: Vocab) -> Any:
    from llguidance.llamacpp import lltokenizer_from_vocab

    return lltokenizer_from_vocab(vocab._handle)


class XgrammarFollower:
    """A text in xgrammar's matcher."""

    def __init__(self, matcher: Any, size: int) -> None:
        self._matcher = matcher
        self._mask = np.zeros((1, (size + 31) // 32), dtype=np.int32)

    def mask(self) -> int:
        if not self._matcher.fill_next_token_bitmask(self._mask, 0):
            return self._mask.size * 32
        return int(np.unpackbits(self._mask.view(np.uint8)).sum())

    def forced(self) -> list[int]:
        return list(self._matcher.find_jump_forward_string().encode())

    def push(self, token: int) -> bool:
        return bool(self._matcher.accept_token(token))

    def ends(self) -> bool:
        return bool(self._matcher._is_completed()) if hasattr(self._matcher, "_is_completed") else self._can_end()

    def _can_end(self) -> bool:
        fork = self._matcher.fork()
        return any(fork.accept_token(token) for token in fork.stop_token_ids)


class XgrammarEngine:
    """xgrammar. It imports torch and transformers for its types only, so empty modules do here."""

    def __init__(self, vocab: Any) -> None:
        for name in ("torch", "transformers"):
            sys.modules.setdefault(name, _empty(name))
        import xgrammar

        self._library = xgrammar
        self._size = vocab.size
        pieces = [vocab.piece(token) or b"" for token in range(vocab.size)]
        self._info = xgrammar.TokenizerInfo(
            pieces, vocab_type=xgrammar.VocabType.RAW, stop_token_ids=sorted(vocab.end_tokens)
        )

    def follow(self, kind: str, text: str) -> XgrammarFollower:
        compiler = self._library.GrammarCompiler(self._info, cache_enabled=False)
        try:
            made = compiler.compile_json_schema(text) if kind == "json" else compiler.compile_grammar(text)
        except Exception as error:  # noqa: BLE001 - whatever it raises is a refusal
            raise Refused(str(error)) from None
        return XgrammarFollower(self._library.GrammarMatcher(made), self._size)


def _empty(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    typed = {"Tensor": type("Tensor", (), {}), "dtype": type, "PreTrainedTokenizerBase": type("Base", (), {})}
    module.__dict__.update(typed, PreTrainedTokenizerFast=type("Fast", (), {}), int32=np.int32)
    module.__dict__["__getattr__"] = lambda _: MagicMock()
    return module


ENGINES: dict[str, Callable[[Any], GrammarEngine]] = {
    "twd": TwdEngine,
    "llguidance": LlguidanceEngine,
    "llguidance, fixed blanks": LlguidanceFixedBlanks,
    "xgrammar": XgrammarEngine,
}


def takes(follower: Follower, tokens: Iterable[int]) -> bool:
    """Whether the grammar takes the whole text."""
    return all(follower.push(token) for token in tokens) and follower.ends()


def compact(document: Any) -> str:
    """A document as JSON without ASCII escapes."""
    return json.dumps(document, ensure_ascii=False)
