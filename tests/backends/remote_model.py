"""A verifying backend as the speculator's service wants a model: what the composition root does, in small."""

from collections.abc import Sequence
from typing import Any

from twd.backends.verifying_model import VerifyingModel
from twd.engine.cost import CostCurve
from twd.speculator.bounds import Limits
from twd.speculator.session import Opening
from twd.wire.base import SessionId
from twd.wire.job import JobSubmitted


class RemoteModel:
    """Everything is the verifying model's own but the speculator's words for it."""

    def __init__(self, model: VerifyingModel, *, ngram: bool = True) -> None:
        self.model = model
        self.ngram = ngram
        self.cost = CostCurve(model.points)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    @property
    def limits(self) -> Limits:
        target = self.model.target
        return Limits(
            slots=target.n_slots,
            ctx_size=target.ctx_size,
            max_window=target.window_max - 1,
            prefill_rows=target.ctx_size,
            ngram=self.ngram,
            shares_cores=False,
        )

    def prepare(self, job: JobSubmitted, session: SessionId) -> Opening:
        ready = self.model.prepare(job, job.sampling.seed or 0)
        return Opening(
            session=session,
            tokens=ready.tokens,
            picker=ready.picker,
            piece=ready.piece,
            end_tokens=ready.end_tokens,
            seed=ready.seed,
        )

    def tokenize(self, text: str) -> list[int]:
        return self.model.tokenize(text)

    def render(self, tokens: Sequence[int]) -> str:
        return self.model.render(tokens)
