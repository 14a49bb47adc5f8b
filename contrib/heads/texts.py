"""Lets a model write texts, and keeps what it computed for each token: what a head learns from.

    python contrib/heads texts MODEL --out FOLDER --tokens 120000

Many texts grow at once, each by one token a pass; tokens of prompts are fed in the same way. Some texts are the
likeliest ones, the others are sampled. Most prompts are the model's own, too: behind the beginning of a user's message
it writes what a user would ask, sampled, so that there are as many kinds as it learned from. What is kept of each
token: the inputs of three layers, the last hidden state (with it the target's distribution can be computed again), and
the token that the target thinks likeliest behind it.
"""

import ctypes
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count, cycle
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from contrib.heads.prompts import prompts
from contrib.heads.save_target import save_target
from twd.chat.template import ChatTemplate, render_tokens
from twd.engine.context import BatchTokens, Context, ContextSettings
from twd.engine.heads.binding import give_layer_inputs, layer_inputs
from twd.engine.library import llama
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.wire.job import ChatMessage, Prompt

Floats = npt.NDArray[np.float32]
_DAY: Final = datetime(2026, 11, 1, tzinfo=UTC)
_LIKELIEST: Final = 40
_QUESTION_TOKENS: Final = 80
"""A question of the model's own is cut here."""
_QUESTION_TEMPERATURE: Final = 1.0
_STAND_IN: Final = "A question."
_LARGEST: Final = float(np.finfo(np.float16).max)
_SHARD: Final = 50
"""So many texts lie in one file."""


@dataclass
class Text:
    """A text that grows."""

    tokens: list[int]
    prompt: int
    temperature: float
    read: int = 0
    tail: Sequence[int] = ()
    """If given, the model writes the question, too, from `prompt` on, and these tokens come behind it."""
    rows: list[npt.NDArray[np.float16]] = field(default_factory=list)
    """For each token that was read, the inputs of the layers and the last hidden state, side by side."""
    likeliest: list[int] = field(default_factory=list)


class Writer:
    """Writes `together` texts at once with one model."""

    def __init__(
        self, model: LoadedGguf, layers: Sequence[int], together: int, longest: int, threads: int, seed: int = 0
    ) -> None:
        self._layers, self._together, self._longest = list(layers), together, longest
        settings = ContextSettings(ctx_size=longest, parallel=together, type_k="f16", threads=threads, ubatch=together)
        self.context = Context(model, settings)
        for layer in self._layers:
            give_layer_inputs(self.context.handle, layer)
        llama.llama_set_embeddings(self.context.handle, True)
        self._width, self._ends = model.n_embd, model.vocab.end_tokens
        self._dice = np.random.default_rng(seed)

    def write(self, asked: Iterator[Text]) -> Iterator[Text]:
        """All texts, each as soon as it is complete. It goes on as long as there are any to begin."""
        slots: dict[int, Text] = {}
        while True:
            for slot in range(self._together):
                if slot not in slots and (begun := next(asked, None)) is not None:
                    self.context.clear(slot)
                    slots[slot] = begun
            if not slots:
                return
            self._step(slots)
            done = [slot for slot, text in slots.items() if self._complete(text)]
            yield from [slots.pop(slot) for slot in done]

    def _complete(self, text: Text) -> bool:
        answers = text.prompt <= text.read < len(text.tokens) and not text.tail
        ended = answers and text.tokens[text.read] in self._ends
        return ended or len(text.tokens) >= self._longest

    def _step(self, slots: dict[int, Text]) -> None:
        """One token more of each."""
        batch = BatchTokens()
        order = sorted(slots)
        for slot in order:
            batch.add(slot, slots[slot].read, [slots[slot].tokens[slots[slot].read]])
        self.context.decode(batch)
        self.context.synchronize()
        inputs = np.concatenate([self._inputs(layer, len(order)) for layer in self._layers], axis=1)
        for row, slot in enumerate(order):
            whole = np.concatenate((inputs[row], self.context.embedding(row)))
            self._extend(slots[slot], whole, self.context.logits(row))

    def _extend(self, text: Text, row: Floats, logits: Floats) -> None:
        text.rows.append(np.clip(row, -_LARGEST, _LARGEST).astype(np.float16))
        text.likeliest.append(int(logits.argmax()))
        text.read += 1
        if text.read < len(text.tokens):
            return
        token = self._picked(logits, _QUESTION_TEMPERATURE if text.tail else text.temperature, text.likeliest[-1])
        if text.tail and (token in self._ends or text.read >= text.prompt + _QUESTION_TOKENS):
            text.tokens += text.tail
            text.prompt, text.tail = len(text.tokens), ()
        else:
            text.tokens.append(token)

    def _picked(self, logits: Floats, temperature: float, likeliest: int) -> int:
        if not temperature:
            return likeliest
        top = np.argpartition(logits, -_LIKELIEST)[-_LIKELIEST:]
        return int(top[np.argmax(logits[top] / temperature + self._dice.gumbel(size=_LIKELIEST))])

    def _inputs(self, layer: int, count: int) -> Floats:
        row = ctypes.c_float * (self._width * count)
        found = row.from_address(layer_inputs(self.context.handle, layer))
        return np.ctypeslib.as_array(found).reshape(count, self._width)


def conversations(model: LoadedGguf, temperatures: Sequence[float], own: int, seed: int) -> Iterator[Text]:
    """Texts to begin, without end: every prompt with each temperature in turn; the order depends on the seed. Behind
    each come `own` texts in which the model asks, too."""
    template = ChatTemplate.of(model.chat_template, model.vocab)
    turns = cycle(temperatures)
    try:
        begin, tail = question_frame(template, model) if own else ([], [])
        for turn in count(seed):
            for asked in prompts(turn):
                prompt = Prompt(messages=[ChatMessage(role="user", content=asked)])
                tokens = render_tokens(template, prompt, model.vocab.tokenize, _DAY)
                yield Text(tokens, len(tokens), next(turns))
                for _ in range(own):
                    yield Text(list(begin), len(begin), next(turns), tail=tail)
            next(turns)  # so that a prompt comes with another one next time
    finally:
        template.close()


def question_frame(template: ChatTemplate, model: LoadedGguf) -> tuple[list[int], list[int]]:
    """The tokens of a chat before the user's message, and those behind it up to the answer."""
    rendered = template.render(Prompt(messages=[ChatMessage(role="user", content=_STAND_IN)]), _DAY)
    before, found, behind = rendered.text.partition(_STAND_IN)
    if not found:
        raise SystemExit("the chat template changes messages, so the model cannot write one: say --own 0")
    begin = model.vocab.tokenize(before, parse_special=True, add_bos=not rendered.begins_with_bos)
    return begin, model.vocab.tokenize(behind, parse_special=True, add_bos=False)


def save(texts: Sequence[Text], path: Path) -> None:
    """Write texts to a file; it is there as a whole or not at all."""
    part = path.with_suffix(".part")
    with part.open("wb") as out:
        np.savez(
            out,
            tokens=np.concatenate([np.array(text.tokens[: text.read], np.int32) for text in texts]),
            lengths=np.array([text.read for text in texts], np.int32),
            prompts=np.array([text.prompt for text in texts], np.int32),
            rows=np.concatenate([np.stack(text.rows) for text in texts]),
            likeliest=np.concatenate([np.array(text.likeliest, np.int32) for text in texts]),
        )
    part.rename(path)


def write_texts(args: Any) -> None:
    """The command."""
    args.out.mkdir(parents=True, exist_ok=True)
    model = LoadedGguf.load(ModelLoadOptions(args.model, args.gpu_layers))
    layers = args.layers or default_layers(model.n_layer)
    save_target(args.model, layers, sorted(model.vocab.end_tokens), args.out / "target.npz")
    number = len(list(args.out.glob("texts-*.npz")))
    writer = Writer(model, layers, args.together, args.longest, args.threads, args.seed + number)
    began, written, kept = time.monotonic(), 0, list[Text]()
    for text in writer.write(conversations(model, args.temperatures, args.own, args.seed + number + 1)):
        kept.append(text)
        written += text.read
        over = written >= args.tokens or time.monotonic() - began > 60 * args.minutes
        if len(kept) == _SHARD or over:
            save(kept, args.out / f"texts-{number:04}.npz")
            spent = time.monotonic() - began
            print(f"{written} tokens in {spent:.0f} s, {written / spent:.0f} a second", flush=True)
            number, kept = number + 1, []
        if over:
            break
    writer.context.close()
    model.close()


def default_layers(layers: int) -> list[int]:
    """An early layer, one behind the middle, and the last: the one whose input tells most."""
    return [layers // 3, 2 * layers // 3, layers - 1]
