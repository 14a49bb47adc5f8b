"""Checks a cut before it serves: the ring's logits are compared with those of the whole model."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from twd.engine.slices.check import RecordedLogits, checked_cut, recorded_logits, require_good
from twd.engine.slices.report import recorded_of
from twd.gguf_tools.model_file import file_hash
from twd.kit.progress import Progress, unheard
from twd.process.home import StateFolder
from twd.ring.cut_check import run_check, takes_check
from twd.ring.driver import RingDriver
from twd.settings.model import Settings
from twd.settings.paths import path_of
from twd.wire.base import ModelId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.ring import StageReady, StateFormat

_CANNOT_RECORD: Final = (FailureCode.OUT_OF_MEMORY, FailureCode.UNSUPPORTED)


@dataclass(slots=True)
class CutCheck:
    """Checks cuts of one model; the logits of the whole model and the results of checks are kept on disk."""

    model: ModelId
    settings: Settings
    _whole: RecordedLogits | None = None

    @property
    def _folder(self) -> Path:
        return StateFolder(self.settings.home_dir).cache / "checks"

    @property
    def _path(self) -> Path:
        return path_of(self.settings.models[self.model].path)

    def run(self, home: RingDriver, stages: Sequence[StageReady], vocabulary: int, progress: Progress = unheard) -> str:
        """Returns why the ring's text may differ from the whole model's; empty: they are equal bit by bit.

        Raises TwdError where the ring computes something else.
        """
        if not takes_check(home):
            return "the context is too small to check the cut"
        entry = self.settings.models[self.model]
        progress(0.2, "recording what the whole model gives, once")
        try:
            self._whole = whole = self._whole or self._record()
        except TwdError as error:
            if error.code not in _CANNOT_RECORD:
                raise
            return f"the cut could not be checked: {error}"
        progress(0.4, "checking the cut")
        cuts = [(stage.first, stage.end) for stage in stages]
        kinds = _kinds({(stage.build, stage.settings) for stage in stages}, self.settings.pool.states)
        verdict = checked_cut(whole, cuts, self._folder, lambda: self._seen(home, stages, vocabulary), kinds)
        same = kinds == _kinds({(whole.build, whole.settings)}, StateFormat.F32)
        alike = bool(entry.exact) and same and not whole.from_disk
        require_good(verdict, told(stages), alike=alike)
        if verdict.exact:
            return ""
        return f"logits differ from the whole model's by up to {verdict.max_difference:.2g}"

    def _record(self) -> RecordedLogits:
        entry = self.settings.models[self.model]
        threads = 0 if entry.threads == "auto" else entry.threads
        return recorded_logits(self._path, self._folder, exact=bool(entry.exact), threads=threads)

    def _seen(self, home: RingDriver, stages: Sequence[StageReady], vocabulary: int) -> RecordedLogits:
        head = stages[-1]
        reports = run_check(home, vocabulary)
        return recorded_of(reports, model=file_hash(self._path), build=head.build, settings=head.settings)


def _kinds(ways: Collection[tuple[str, str]], states: str) -> str:
    """Returns the ways in which it is computed, as one string: builds with their settings, and how states are sent."""
    return repr((sorted(ways), str(states)))


def told(stages: Sequence[StageReady]) -> str:
    """Returns a cut in words, with its stages."""
    pieces = [
        f"{stage.first}-{stage.end}{' with the head' if stage.head else ''} on {stage.node} ({stage.stage})"
        for stage in stages
    ]
    return f"the cut into layers {', '.join(pieces)}"
