"""From a job to what the core needs of it: tokens, a picker, a seed. Everything that can be refused is refused here."""

from collections.abc import Callable
from dataclasses import dataclass

from twd.engine.chat_template import ChatTemplate, render_tokens
from twd.engine.logprobs import reporter
from twd.engine.pick import TokenPicker
from twd.engine.vocab import Vocab
from twd.speculator.session import Opening
from twd.wire.base import SessionId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import JobSubmitted, Prompt


@dataclass(frozen=True, slots=True)
class Preparer:
    """Tokenizes prompts and builds pickers for one model; used from a thread of its own."""

    vocab: Vocab
    template: ChatTemplate
    draw_seed: Callable[[], int]

    def prepare(self, job: JobSubmitted, session: SessionId) -> Opening:
        """Everything about a job that needs the model but not its engine."""
        tokens = self.tokens(job.prompt)
        if not tokens:
            raise TwdError(FailureCode.BAD_REQUEST, "the prompt is empty; send at least one character", "prompt")
        for token in (*tokens, *job.resume):
            if token >= self.vocab.size:
                raise TwdError(FailureCode.BAD_REQUEST, f"token {token} is not in this model's vocabulary", "prompt")
        seed = job.sampling.seed if job.sampling.seed is not None else self.draw_seed()
        picker = TokenPicker(job.sampling, seed, self.vocab, grammar=job.grammar, prompt_len=len(tokens))
        return Opening(
            session=session,
            tokens=tokens,
            picker=picker,
            piece=self.vocab.piece,
            end_tokens=self.vocab.end_tokens,
            seed=seed,
            report=None if job.logprobs is None else reporter(self.vocab, job.logprobs),
        )

    def tokens(self, prompt: Prompt) -> list[int]:
        """The token ids of a prompt, whatever form it has."""
        given = [part for part in (prompt.messages, prompt.text, prompt.tokens) if part is not None]
        if len(given) != 1:
            raise TwdError(FailureCode.BAD_REQUEST, "give messages, a text or tokens: exactly one of them", "prompt")
        if prompt.tokens is not None:
            return list(prompt.tokens)
        if prompt.text is not None:
            return self.vocab.tokenize(prompt.text, parse_special=False, add_bos=True)
        return render_tokens(self.template, prompt, self.vocab)
