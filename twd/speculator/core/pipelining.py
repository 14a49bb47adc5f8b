"""What to send into a pipeline next: other sessions first, then new prompts, then guesses on guesses.

One pass leaves at a time, when the slowest stage is about to be idle: earlier it would only wait there, and later
more is known. So how many windows are in flight follows from the pipe's length and need not be chosen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil

from twd.decoding.pipeline import PipelineState
from twd.speculator.core.batch_planning import ROWS_TOGETHER, NextStep, StepPlanner
from twd.speculator.core.draft_tree import DraftNode
from twd.speculator.core.limits import SpeculatorLimits
from twd.speculator.core.session import InFlightWindow, Session
from twd.speculator.drafters.pool import DrafterPool

WORTH = 0.02
"""Tokens that a following window must be expected to win for each row that it computes, perhaps in vain."""
VAIN = 0.95
"""So much of what a run of right guesses brings may be computed in vain when it ends."""
_RUN = 10.0
"""Runs that are shorter count as so many tokens: windows in flight pay there, too."""
_BESIDE_MS = 25.0
_PATIENCE_STEPS = 0.5
_SURE = 0.999
_BETTER, _MUCH_BETTER = 0.98, 0.93


def sessions_together(slots: Sequence[int], pipe: PipelineState, held: int = 0) -> int:
    """How many sessions should share a pass: as few as keep the slowest stage from being the bottleneck.

    To group them anew costs each of them a wait, so `held`, as many as there were, stays while it is nearly as good.
    """
    running = tuple(sorted(slots))

    def cycle_ms(size: int) -> float:
        rows = [span(group) for group in _groups(running, size)]
        return max(pipe.trip_ms(max(rows)), sum(map(pipe.step_ms, rows)))

    best, best_ms = len(running), float("inf")
    for size in range(1, len(running) + 1):
        spent_ms = cycle_ms(size)
        if spent_ms < best_ms * _BETTER:
            best, best_ms = size, spent_ms
    return held if 0 < held <= len(running) and cycle_ms(held) * _MUCH_BETTER <= best_ms else best


def groups(slots: Sequence[int], size: int) -> list[list[int]]:
    """Slots that share their passes: about `size` of them, as near to each other as can be.

    Only neighbours are computed at once, so a pass has a row for every slot between them, too.
    """
    return [list(group) for group in _groups(tuple(sorted(slots)), size)]


def span(group: Sequence[int]) -> int:
    """The slots from the first to the last of a group."""
    return group[-1] - group[0] + 1


@lru_cache(maxsize=1024)
def _groups(order: tuple[int, ...], size: int) -> list[tuple[int, ...]]:
    count = ceil(len(order) / size)
    widest = ceil(len(order) / count)
    while len(found := _no_wider(order, widest)) > count:
        widest += 1
    return found


def _no_wider(order: tuple[int, ...], widest: int) -> list[tuple[int, ...]]:
    """As few groups as there can be of this span."""
    found: list[tuple[int, ...]] = []
    first = 0
    for place, slot in enumerate(order):
        if slot - order[first] >= widest:
            found.append(order[first:place])
            first = place
    return [*found, order[first:]]


def chunk_rows(tokens: int, most: int, pipe: PipelineState) -> int:
    """The chunk in which so much of prompts is read soonest: short, so that all stages have some of it, but not in so
    many passes that these cost more than that wins. From the first to the last, or stages wait for each other."""

    def spent_ms(rows: int) -> float:
        return (tokens / rows - 1) * pipe.step_ms(rows) + pipe.trip_ms(rows) if rows < tokens else pipe.trip_ms(tokens)

    shorter = (most >> halvings for halvings in range(4))
    return min((rows for rows in shorter if rows), key=spent_ms)


@dataclass(frozen=True, slots=True)
class WindowWidth:
    """Rows of a window, the first included, and the time that a token takes with such windows."""

    rows: int
    token_ms: float


def best_width(
    held: Sequence[float], pipe: PipelineState, *, together: int = 1, passes: int = 1, follows: bool = True
) -> WindowWidth:
    """The quickest width of windows.

    `held[i]` is the chance that guesses 0..i all hold. A run up to the first wrong guess makes the same tokens with any
    width; what differs is its time: the first window's way, then a step for each window that held, or a new
    way where no window may follow. `passes` of `together` sessions share the pipe.
    """
    best, best_ms = WindowWidth(1, pipe.trip_ms(together)), float("inf")
    for width in range(1, len(held) + 2):
        rows = width * together
        step = passes * pipe.step_ms(rows)
        way = max(pipe.trip_ms(rows), step)
        on = min(_SURE**width, _held(held, width))
        spent = way + (step if follows else way) * on / (1.0 - on)
        if spent < best_ms:
            best, best_ms = WindowWidth(width, spent * (1.0 - on ** (1.0 / width))), spent
    return best


def _held(held: Sequence[float], count: int) -> float:
    """The chance that so many guesses hold; beyond those at hand, as likely as these."""
    if not held:
        return 0.0
    return held[count - 1] if count <= len(held) else held[-1] ** (count / len(held))


class PipelinePlanner(StepPlanner):
    """Plans for a target that is a pipeline: each plan is one pass."""

    def __init__(
        self, limits: SpeculatorLimits, pipe: PipelineState, sessions: dict[int, Session], drafter_pool: DrafterPool
    ) -> None:
        super().__init__(limits, pipe.trip_ms, sessions, drafter_pool)
        self._pipe = pipe
        self._prompts_turn = False
        self._together = 0
        self._rows_max = min(ROWS_TOGETHER, limits.prefill_rows)
        """Of one pass, whose ever its rows are: stages take no more than of a prompt at once."""

    def plan(self, now: float) -> NextStep:
        """The next pass, or until when to wait; nothing to wait for means that the next answer decides."""
        plan = NextStep()
        if self._pipe.full:
            return plan
        if now < self._pipe.due() and not self._only_reads():
            plan.wake_at = self._pipe.due()
            return plan
        running = [session for session in self._sessions.values() if not session.prefilling]
        turns = [self._start, self._read_prompts]
        if self._prompts_turn:
            turns.reverse()
        for turn in (*turns, self._follow):
            turn(plan, running, now)
            if plan.windows:
                break
        return plan

    def _only_reads(self) -> bool:
        """Whether there are prompts alone: nothing more will be known later, so one pass may wait for the stages."""
        rows = self._limits.prefill_rows
        fills = self._pipe.trip_ms(rows) / self._pipe.step_ms(rows)
        return self._pipe.flying <= fills and all(session.prefilling for session in self._sessions.values())

    def _start(self, plan: NextStep, running: list[Session], now: float) -> None:
        """Windows of sessions that have none under way."""
        group = self._group(running)
        if not group:
            return
        limit = min(self._limits.max_window, self._rows_max // len(group) - 1)
        paths = [self._candidates(session, self._fixed(session) or limit) for session in group]
        if len(running) == 1:
            plan.wake_at = self._wait(group[0], paths[0], now)
            if plan.wake_at is not None:
                return
        width = self._width(group, paths, passes=ceil(len(running) / len(group)))
        for session, path in zip(group, paths, strict=True):
            self._launch(plan, session, [node for node, _ in path[: width - 1]], None)
        self._due(plan, group, now)
        self._prompts_turn = True

    def _group(self, running: list[Session]) -> list[Session]:
        """Those who waited longest of the sessions that share a pass, or nobody while others of it are on their way.

        Sessions that make a token a pass stay together so; one that guesses comes back when nobody knows.
        """
        sessions = {session.slot: session for session in running}
        if all(session.guessing for session in running):
            return []
        order = sorted(sessions)
        self._together = sessions_together(order, self._pipe, self._together)
        found: list[list[Session]] = []
        for slots in groups(order, self._together):
            ready = [sessions[slot] for slot in slots if not sessions[slot].guessing]
            away = [sessions[slot] for slot in slots if sessions[slot].guessing]
            if ready and not any(in_step(session) for session in away):
                found.append(ready)
        group = min(found, key=lambda ready: min(session.accepted_at for session in ready), default=[])
        oldest = sorted(group, key=lambda session: session.accepted_at)[: self._rows_max]
        return sorted(oldest, key=lambda session: session.slot)

    def _fixed(self, session: Session) -> int:
        return session.job.speculation.window

    def _width(self, group: list[Session], paths: list[list[tuple[DraftNode, float]]], passes: int) -> int:
        if len(group) == 1 and self._fixed(group[0]):
            return len(paths[0]) + 1
        longest = max(len(path) for path in paths)
        held = [sum(path[i][1] for path in paths if i < len(path)) / len(paths) for i in range(longest)]
        follows = self._limits.in_flight > 1
        return best_width(held, self._pipe, together=len(group), passes=passes, follows=follows).rows

    def _wait(self, session: Session, path: list[tuple[DraftNode, float]], now: float) -> float | None:
        """A moment for first guesses that are about to come; where they may follow, it is a short one."""
        waited_ms = (now - session.accepted_at) * 1000
        latest = session.accepted_at + _PATIENCE_STEPS * self._pipe.step_ms(1) / 1000
        if self._limits.in_flight > 1 and now >= latest:
            return None
        wake_at = self._linger(session, [chance for _, chance in path], waited_ms, self._fixed(session), now)
        return wake_at if wake_at is None or self._limits.in_flight == 1 else min(wake_at, latest)

    def _due(self, plan: NextStep, sessions: Sequence[Session], now: float) -> None:
        for session in sessions:
            session.inflight_windows[-1].due = self._pipe.arrival(plan.rows, now)

    def _read_prompts(self, plan: NextStep, running: list[Session], now: float) -> None:
        """A chunk of the oldest prompt; beside running sessions a short one, for they wait while it is computed, but
        the longer the more prompts there are for each of them."""
        reading = [session for session in self._sessions.values() if session.prefilling]
        waiting = [session for session in reading if session.judged is None or not session.inflight_windows]
        if not waiting:
            return
        session = min(waiting, key=lambda one: one.opened_at)
        together = sum(len(one.tokens) - one.read_from for one in waiting)
        rows = chunk_rows(together, self._limits.prefill_rows, self._pipe)
        bearable_ms = _BESIDE_MS * max(1.0, len(waiting) / max(1, len(running)))
        while running and rows > 8 and self._pipe.step_ms(rows) > bearable_ms:
            rows //= 2
        self._read_on(plan, session, rows)
        self._due(plan, [session], now)
        self._prompts_turn = False

    def _follow(self, plan: NextStep, running: list[Session], now: float) -> None:
        """A window on the assumption that those under way hold, of the session that wins most by it."""
        best: tuple[float, Session, list[DraftNode]] | None = None
        for session in running:
            if session.guessing and len(session.inflight_windows) < self._limits.in_flight and session.speculates:
                gain, nodes = self._following(session, len(running), now)
                if gain >= WORTH and (best is None or gain > best[0]):
                    best = gain, session, nodes
        if best is not None:
            self._launch(plan, best[1], best[2], None)
            self._due(plan, [best[1]], now)

    def _room(self, under_way: int, reached: float) -> float:
        """How many guesses may be under way for a session; their chance says how soon one will be wrong.

        What follows a wrong guess is computed by each stage until it hears of that; the last one, which finds it out,
        computes none.
        """
        vain = 1.0 - self._pipe.step_ms(1) / self._pipe.whole_ms(1)
        wrong: float = 1.0 - reached ** (1.0 / max(1, under_way))
        return VAIN * max(_RUN, 1.0 / max(wrong, 1e-3)) / max(vain, 1e-3)

    def _following(self, session: Session, passes: int, now: float) -> tuple[float, list[DraftNode]]:
        """Guesses beyond those under way, and how many tokens each of their rows is expected to win.

        The alternative is to wait for the next verdict: that costs time, if all under way holds.
        """
        under_way, reached = sum(len(inflight.nodes) for inflight in session.inflight_windows), self._reached(session)
        if under_way >= self._room(under_way, reached):
            return 0.0, []
        fixed = self._fixed(session)
        path = self._candidates(session, fixed or self._limits.max_window, end_of(session.inflight_windows[-1]))
        first = path[0][1] if path else 0.0
        if not first:
            return 0.0, []
        width = best_width([chance / first for _, chance in path[1:]], self._pipe, passes=passes)
        nodes = [node for node, _ in path[: fixed or width.rows]]
        step_ms = self._pipe.step_ms(len(nodes))
        verdict = next(inflight.due for inflight in session.inflight_windows if inflight.picks)
        waiting_ms = max(step_ms, (verdict - now) * 1000)  # one that is late already is not here for that
        won = reached * first * waiting_ms / width.token_ms
        lost = (passes - 1) * step_ms**2 / (2 * self._pipe.trip_ms(1) * width.token_ms)
        return (won - lost) / len(nodes), nodes

    def _reached(self, session: Session) -> float:
        """The chance that all guesses under way hold."""
        believe, chance = session.beliefs.chance, 1.0
        for inflight in session.inflight_windows:
            for node in inflight.nodes:
                chance *= node.chance(believe)
        return chance


def in_step(session: Session) -> bool:
    """Whether a session is sure to be ready when the only pass that it is part of is back."""
    return len(session.inflight_windows) == 1 and not session.inflight_windows[0].nodes


def end_of(inflight: InFlightWindow) -> DraftNode | None:
    """The guess on which a following window goes on; None where that is the end of the text."""
    return inflight.nodes[-1] if inflight.nodes else None
