"""Decides what to draft next, for which sessions, and when to send it. No engine, no clock, no bus."""

from collections.abc import Sequence
from dataclasses import replace

from msgspec import structs

from twd.decoding.window import Window
from twd.drafter.draft import FLOOR, FLOOR_BESIDE, DraftRules, DraftState, Guess
from twd.drafter.told_experts import Chosen, told_choices
from twd.drafter.trust import ConfidenceCalibration
from twd.drafting.calibration import Calibration
from twd.drafting.ngram import MIN_MATCH
from twd.drafting.window_value import Cost, best_cut, held_in_a_row
from twd.kit.jobs.liveness import JobLiveness
from twd.wire.base import InstanceId, JobId, SessionId
from twd.wire.draft import DraftGranted, DraftProposed, SessionOpened

CHUNK = 64
COPIES_MAX = 8
_FLIGHT_MS = 6.0
_PACE_SMOOTH = 0.1


class DrafterCore:
    """All sessions for which one drafter drafts."""

    def __init__(
        self, name: InstanceId, slots: int, ctx_size: int, cost: Cost | None = None, window_max: int = 1
    ) -> None:
        """`cost`: milliseconds of a pass by its rows. With it, a step also tries copies: drafts from earlier text."""
        self.name = name
        self._cost = cost
        self._window_max = window_max
        self._record = Calibration()
        self.slots = slots
        self.ctx_size = ctx_size
        self.drafts: dict[SessionId, DraftState] = {}
        self.by_job: dict[JobId, DraftState] = {}
        self._released: list[int] = []
        self._lost = False
        self._liveness = JobLiveness()
        self.token_ms = 5.0
        self._pace_known = False
        self.trust = ConfidenceCalibration()
        self.chosen: Chosen | None = None
        """Tells which experts a token chose, where the draft model is a mixture."""

    # -- what comes in -------------------------------------------------------------------------

    def open(self, event: SessionOpened, following: DraftRules, beside: bool, yields: bool = False) -> None:
        """Open a session for drafting; a known session is brought up to date.

        `beside`: this drafter computes on the target's device. `yields`: it computes on cores of stages or workers.
        In both cases it waits until the target has read the prompt, so that the first token comes no later.
        """
        known = self.drafts.get(event.session)
        if known is not None:
            known.credit = max(known.credit, event.credit)
            known.waits = known.waits and event.reading
            self.accept(event.job, 0, event.tokens)
            return
        self.close_job(event.job)
        draft = DraftState(
            session=event.session,
            job=event.job,
            accepted=list(event.tokens),
            sampler=following.sampler,
            prompt_tokens=event.prompt_tokens,
            ahead=following.ahead,
            credit=event.credit,
            floor=FLOOR_BESIDE if beside else FLOOR,
            beside=beside,
            trust=self.trust,
            waits=event.reading and (beside or yields),
            tells=event.wants_experts and self.chosen is not None,
        )
        self.drafts[event.session] = draft
        self.by_job[event.job] = draft

    def close(self, session: SessionId) -> None:
        """Close a session and release its slot."""
        draft = self.drafts.pop(session, None)
        if draft is None:
            return
        if self.by_job.get(draft.job) is draft:
            del self.by_job[draft.job]
            self._liveness.forget(draft.job)
        if draft.slot >= 0:
            self._released.append(draft.slot)

    def close_job(self, job: JobId) -> None:
        """Close the session of a job that ended, or of which another attempt began."""
        draft = self.by_job.get(job)
        if draft is not None:
            self.close(draft.session)

    def grant(self, event: DraftGranted) -> None:
        """Take the credit that the speculator grants."""
        draft = self.drafts.get(event.session)
        if draft is not None and event.drafter == self.name:
            draft.credit, draft.floor = event.credit, event.floor
            draft.told_rest = False
            draft.waits = draft.waits and not event.reads

    def accept(self, job: JobId, at: int, tokens: Sequence[int]) -> None:
        """Take accepted tokens: keep the drafts that agree and drop the others."""
        draft = self.by_job.get(job)
        if draft is None or not tokens:
            return
        if at > len(draft.accepted):  # a message was lost: drafts from here on would be for another text
            self._lost = True
            draft.give_up()
            return
        news = tokens[len(draft.accepted) - at :]
        if news:
            draft.settle(news)

    def heard(self, job: JobId, now: float) -> None:
        """Record a sign of life of a job. Close the sessions of jobs without one for long: they have ended, and would
        keep their slots."""
        if job in self.by_job:
            self._liveness.hear(job, now)
        elif self._liveness.returns(job):
            self._lost = True
        for silent in self._liveness.give_up(now):
            self.close_job(silent)

    def take_lost(self) -> bool:
        """Returns whether, since the last call, the text of a session was lost, so that it must be published again."""
        lost, self._lost = self._lost, False
        return lost

    # -- what to compute -----------------------------------------------------------------------

    def waiting(self) -> list[DraftState]:
        """Returns the sessions that should get a slot now, at most as many as slots are free."""
        busy = sum(draft.slot >= 0 for draft in self.drafts.values()) + len(self._released)
        without = [draft for draft in self.drafts.values() if draft.slot < 0 and not draft.resting]
        return without[: max(0, self.slots - busy)]

    def opened(self, draft: DraftState, slot: int, cached: int) -> None:
        """Record that a session has a slot whose cache holds its first `cached` tokens."""
        draft.slot = slot
        draft.kept = draft.accepted[:cached]

    def released(self) -> list[int]:
        """Returns the slots that are free again."""
        slots, self._released = self._released, []
        return slots

    def plan(self) -> list[tuple[DraftState, Window]]:
        """Returns the next step: one token for every session with credit left, or several with copies. A prompt is
        first read in chunks.

        A resting session uses the time for branches: what follows if its least certain draft is wrong.
        """
        steps: list[tuple[DraftState, Window]] = []
        for draft in self.drafts.values():
            if draft.slot < 0 or draft.length + 1 >= self.ctx_size:
                continue
            if draft.resting and not draft.choose_branch():
                continue
            steps.append((draft, self._window(draft)))
        return steps if self._cost is None else self._with_copies(steps, self._cost)

    def _with_copies(self, steps: list[tuple[DraftState, Window]], cost: Cost) -> list[tuple[DraftState, Window]]:
        """Returns the same steps, with more rows where copies of earlier text are worth a try."""
        rows = sum(len(window.tokens) for _, window in steps)
        wider = []
        for draft, window in steps:
            copies, draft.copied_sure = self._copies(draft, window)
            chances = held_in_a_row(self._record.chance(draft.copied_sure), len(copies))
            cut, _ = best_cut(chances, cost, rows=rows, sure=float(len(steps)))
            rows += cut
            wider.append(
                (draft, replace(window, tokens=(*window.tokens, *copies[:cut]), repeats=0 if copies else MIN_MATCH))
            )
        return wider

    def _copies(self, draft: DraftState, window: Window) -> tuple[list[int], float]:
        room = min(
            COPIES_MAX,
            draft.credit - len(draft.guesses) - 1,
            self._window_max - len(window.tokens),
            self.ctx_size - draft.length - 2,
        )
        if not window.picks or draft.on_branch is not None or room <= 0:
            return [], 0.0
        return draft.copies(room)

    def _window(self, draft: DraftState) -> Window:
        start, end = draft.fed, draft.length
        tokens = draft.span(start, min(end, start + CHUNK))
        last = start + len(tokens) == end
        steps = max(1, min(draft.run(self._enough), self.ctx_size - end - 1))
        steps = 1 if draft.tells else steps  # what is chosen is known of tokens that are computed one by one
        return Window(
            draft.slot, 0, start, tokens, None, picks=last, committed=len(tokens), steps=steps, least=draft.least
        )

    @property
    def _enough(self) -> int:
        """How many drafts are worth a message of their own."""
        return max(1, round(_FLIGHT_MS / max(self.token_ms, 0.1)))

    def computed(self, draft: DraftState, window: Window, guesses: Sequence[Guess], spent_ms: float) -> None:
        """Take the results of a step, or of several in one call; no event came in between. A chunk that does not end
        the prompt gives no draft; a step with copies gives one more draft than copies were right."""
        del draft.kept[window.at :]
        right = max(0, len(guesses) - 1)
        draft.kept += (*window.tokens[: window.committed], *(guess.token for guess in guesses[:right]))
        if not guesses:
            return
        copies = len(window.tokens) - window.committed
        for place in range(min(right + 1, copies)):
            self._record.learn(draft.copied_sure, place < right)
        token_ms = spent_ms / len(guesses)
        reads = window.committed > max(1, len(guesses))
        if reads:  # reading the text is no measure of the drafting speed
            token_ms = min(token_ms, self.token_ms) if self._pace_known else 0.0
        for guess in guesses:
            draft.add(guess, token_ms)
            if reads and not self._pace_known:
                continue
            self.token_ms += (_PACE_SMOOTH if self._pace_known else 1.0) * (token_ms - self.token_ms)
            self._pace_known = True

    def doubt_pace(self) -> None:
        """Forget the measured pace, because other processes ran then: the next step counts alone."""
        self._pace_known = False

    # -- what to send --------------------------------------------------------------------------

    def proposals(self) -> list[DraftProposed]:
        """Returns the drafts to send now. A drafter beside the target sends its whole run at once; one elsewhere sends
        as soon as a message is worth its delay. Without credit nobody waits for it, and a message would end a call of
        the target for several tokens."""
        messages = []
        enough = self._enough
        for draft in self.drafts.values():
            fresh = len(draft.guesses) - draft.sent
            resting = draft.resting and draft.credit > 0 and not draft.told_rest and not draft.waits
            news = draft.branch_proposals(self.name)
            if resting or (fresh >= enough and not draft.beside):
                news = [draft.proposal(self.name), *news]
            messages += [self._with_experts(draft, message) for message in news]
        return messages

    def _with_experts(self, draft: DraftState, message: DraftProposed) -> DraftProposed:
        if not draft.tells or self.chosen is None or not message.tokens:
            return message
        return structs.replace(message, experts=told_choices(self.chosen, draft.read_for(message)))
