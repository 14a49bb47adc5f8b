"""What to send into a pipeline next: windows of idle sessions first, then prompts, then drafts behind unverified
drafts.

One pass leaves at a time, just before the slowest stage would be idle. Earlier it would only wait at that stage; later
more drafts and results are known. So the number of windows in flight follows from the length of the pipeline and is
not a setting.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil

from twd.decoding.pipeline import PipelineState
from twd.speculator.core.batch_planning import ROWS_TOGETHER, NextStep, StepPlanner
from twd.speculator.core.consensus import Consensus
from twd.speculator.core.draft_tree import DraftNode
from twd.speculator.core.limits import SpeculatorLimits
from twd.speculator.core.session import InFlightWindow, Session
from twd.speculator.drafters.drafter_link import AttachedDrafter, DrafterLink
from twd.speculator.drafters.pool import DrafterPool

WORTH = 0.02
"""A following window must be expected to win this many tokens for each row that it computes."""
VAIN = 0.95
"""When a run of right drafts ends, the rows computed in vain may be this share of what the run won."""
_RUN = 10.0
"""Runs of right drafts that are shorter count as this many tokens: windows in flight pay there, too."""
_BESIDE_MS = 25.0
_PATIENCE_STEPS = 0.5
_SURE = 0.999
_BETTER, _MUCH_BETTER = 0.98, 0.93
_GATHERED_MAX = 8
_SHARED = 0.5
"""While stages compute for so many milliseconds, a drafter that shares their cores loses this part of them."""
_ALIKE = 1.1


def sessions_together(slots: Sequence[int], pipe: PipelineState, held: int = 0) -> int:
    """Returns how many sessions should share a pass: as few as possible without making the slowest stage the
    bottleneck.

    Regrouping costs each session a wait. So `held`, the number until now, stays while it is nearly as good.
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
    """Returns groups of about `size` slots that share their passes, with slots of a group as near to each other as
    possible.

    A pass computes one contiguous range of slots, so it also has a row for every slot between them.
    """
    return [list(group) for group in _groups(tuple(sorted(slots)), size)]


def span(group: Sequence[int]) -> int:
    """Returns how many slots lie from the first to the last of a group, both included."""
    return group[-1] - group[0] + 1


@lru_cache(maxsize=1024)
def _groups(order: tuple[int, ...], size: int) -> list[tuple[int, ...]]:
    count = ceil(len(order) / size)
    widest = ceil(len(order) / count)
    while len(found := _no_wider(order, widest)) > count:
        widest += 1
    return found


def _no_wider(order: tuple[int, ...], widest: int) -> list[tuple[int, ...]]:
    """Returns the fewest groups in which no group spans more than `widest` slots."""
    found: list[tuple[int, ...]] = []
    first = 0
    for place, slot in enumerate(order):
        if slot - order[first] >= widest:
            found.append(order[first:place])
            first = place
    return [*found, order[first:]]


def chunk_rows(tokens: int, most: int, pipe: PipelineState) -> int:
    """Returns the chunk size in rows at which `tokens` prompt tokens are read soonest. Short chunks keep all stages
    busy, but each more pass costs time. All chunks have this size, otherwise stages wait for each other."""

    def spent_ms(rows: int) -> float:
        return (tokens / rows - 1) * pipe.step_ms(rows) + pipe.trip_ms(rows) if rows < tokens else pipe.trip_ms(tokens)

    shorter = (most >> halvings for halvings in range(4))
    return min((rows for rows in shorter if rows), key=spent_ms)


@dataclass(frozen=True, slots=True)
class WindowWidth:
    """Rows of a window, including the accepted token, and the milliseconds for each token with such windows."""

    rows: int
    token_ms: float


def best_width(
    held: Sequence[float], pipe: PipelineState, *, together: int = 1, passes: int = 1, follows: bool = True
) -> WindowWidth:
    """Returns the window width with the least time for each token.

    `held[i]` is the chance that drafts 0..i are all accepted. A run up to the first wrong draft gives the same tokens
    with any width; only its time differs: one trip through the pipeline for the first window, then one step for each
    accepted window, or a whole trip where no window may follow. `passes` passes of `together` sessions each share the
    pipeline.
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


def drafts_together(chance: float, token_ms: float, pipe: PipelineState, most: int) -> int:
    """Returns how many drafts a following window should bring where the drafter shares cores with the stages: the
    fewest with which a run up to the first wrong draft takes about the least time.

    Stages take nearly as long for one row as for several, and meanwhile the drafter rests. So few windows leave it more
    time than many. But drafts wait for the last of their window, in vain where one of them is wrong.
    """
    kept = min(_SURE, chance)

    def run_ms(width: int) -> float:
        on = kept**width
        between = width * token_ms + _SHARED * pipe.whole_ms(width)
        return pipe.trip_ms(width) + (width - 1) / 2 * token_ms + between * on / (1.0 - on)

    times = [run_ms(width) for width in range(1, max(1, min(most, _GATHERED_MAX)) + 1)]
    enough = _ALIKE * min(times)
    return 1 + next(i for i, spent in enumerate(times) if spent <= enough)


def _held(held: Sequence[float], count: int) -> float:
    """Returns the chance that `count` drafts are all accepted. Drafts beyond the known ones are taken to be as good as
    those."""
    if not held:
        return 0.0
    return held[count - 1] if count <= len(held) else held[-1] ** (count / len(held))


class PipelinePlanner(StepPlanner):
    """Plans the passes of a pipeline target: each plan is one pass."""

    def __init__(
        self,
        limits: SpeculatorLimits,
        pipe: PipelineState,
        sessions: dict[int, Session],
        drafter_pool: DrafterPool,
        consensus: Consensus,
    ) -> None:
        super().__init__(limits, pipe.trip_ms, sessions, drafter_pool, consensus)
        self._pipe = pipe
        self._prompts_turn = False
        self._together = 0
        self._rows_max = min(ROWS_TOGETHER, limits.prefill_rows)
        """Rows of one pass, over all its sessions: a stage takes no more rows than a prompt chunk has."""

    def plan(self, now: float) -> NextStep:
        """Returns the next pass, or until when to wait. If both are empty, the next result decides."""
        plan = NextStep()
        if self._pipe.full:
            return plan
        if now < self._pipe.due() and not self._only_reads():
            plan.wait(self._pipe.due())
            return plan
        running = [session for session in self._sessions.values() if not session.prefilling]
        running = [session for session in running if session.guessing or not self._awaits_votes(plan, session, now)]
        turns = [self._start, self._read_prompts]
        if self._prompts_turn:
            turns.reverse()
        for turn in (self._read_agreed, *turns, self._follow):
            turn(plan, running, now)
            if plan.windows:
                break
        return plan

    def _only_reads(self) -> bool:
        """Whether all sessions still read their prompts. Nothing more will be known later, so one pass may already
        wait in front of the stages."""
        rows = self._limits.prefill_rows
        fills = self._pipe.trip_ms(rows) / self._pipe.step_ms(rows)
        return self._pipe.flying <= fills and all(session.prefilling for session in self._sessions.values())

    def _read_agreed(self, plan: NextStep, running: list[Session], now: float) -> None:
        """Add a window that reads the tokens on which drafters agreed, for the session that waited longest."""
        able = [session for session in running if session.unread and not session.guessing]
        if able:
            session = min(able, key=lambda one: one.accepted_at)
            self._read_unread(plan, session, now)
            self._due(plan, [session], now)

    def _start(self, plan: NextStep, running: list[Session], now: float) -> None:
        """Add windows of sessions that have none in flight."""
        group = self._group([session for session in running if not session.unread])
        if not group:
            return
        limit = min(self._limits.max_window, self._rows_max // len(group) - 1)
        paths = [self._candidates(session, self._fixed(session) or limit) for session in group]
        if len(running) == 1:
            wake_at = self._wait(group[0], paths[0], now)
            if wake_at is not None:
                plan.wait(wake_at)
                return
        width = self._width(group, paths, passes=ceil(len(running) / len(group)))
        for session, path in zip(group, paths, strict=True):
            self._launch(plan, session, [node for node, _ in path[: width - 1]], None)
        self._due(plan, group, now)
        self._prompts_turn = True

    def _group(self, running: list[Session]) -> list[Session]:
        """Returns the group of sessions that waited longest and whose members are all back; empty if there is none.

        So sessions that make one token a pass stay together. A session with drafts comes back at a time that is not
        known, so the others do not wait for it.
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
        """Returns until when to wait for the first drafts; None: do not wait. Where windows may follow, the wait is
        short."""
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
        """Add a chunk of the oldest prompt. With running sessions the chunk is short, because they wait while it is
        computed; it is longer if many prompts wait for each running session."""
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
        if not session.prefilling:
            plan.read.append(session)

    def _follow(self, plan: NextStep, running: list[Session], now: float) -> None:
        """Add a window that assumes that all drafts in flight are accepted, for the session that wins most by it."""
        best: tuple[float, Session, list[DraftNode]] | None = None
        for session in running:
            if self._consensus.awaited(session):
                continue  # agreement is taken when no window is in flight
            if session.guessing and len(session.inflight_windows) < self._limits.in_flight and session.speculates:
                gain, nodes = self._following(session, len(running), now)
                if gain >= WORTH and (best is None or gain > best[0]):
                    best = gain, session, nodes
        if best is None:
            return
        wake_at = self._gathers(best[1], len(best[2]), now) if len(running) == 1 else None
        if wake_at is not None:
            plan.wait(wake_at)
            return
        self._launch(plan, best[1], best[2], None)
        self._due(plan, [best[1]], now)

    def _gathers(self, session: Session, known: int, now: float) -> float | None:
        """Returns until when a window with `known` drafts should wait for more; None: it should leave."""
        for drafter, link in self._sharing(session):
            depth = session.tree.depth(drafter.name)
            missing = self._together_of(session, drafter) - known
            latest = link.due(drafter, depth) + missing * drafter.token_ms / 1000
            if missing > 0 and now < latest and link.expected(drafter, depth, 0.0, now) is not None:
                return latest
        return None

    def _together_of(self, session: Session, drafter: AttachedDrafter) -> int:
        fixed, most = self._fixed(session), min(self._limits.max_window, self._rows_max)
        return fixed or drafts_together(session.beliefs.typical(drafter.name), drafter.token_ms, self._pipe, most)

    def _sharing(self, session: Session) -> list[tuple[AttachedDrafter, DrafterLink]]:
        """Returns the drafters at work for a session that share cores with the stages."""
        return [(drafter, link) for drafter, link in self._drafter_pool.at_work(session) if drafter.yields]

    def _room(self, under_way: int, reached: float) -> float:
        """Returns how many drafts may be in flight for a session. Their chance `reached` tells how soon one will be
        wrong.

        Each stage computes what follows a wrong draft until it hears of the error. The last stage finds the error, so
        it computes nothing in vain.
        """
        vain = 1.0 - self._pipe.step_ms(1) / self._pipe.whole_ms(1)
        wrong: float = 1.0 - reached ** (1.0 / max(1, under_way))
        return VAIN * max(_RUN, 1.0 / max(wrong, 1e-3)) / max(vain, 1e-3)

    def _following(self, session: Session, passes: int, now: float) -> tuple[float, list[DraftNode]]:
        """Returns how many tokens each row of a following window is expected to win, and its drafts.

        The alternative is to wait for the next result. That costs time if all drafts in flight are accepted.
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
        wanted = max((self._together_of(session, drafter) for drafter, _ in self._sharing(session)), default=1)
        nodes = [node for node, _ in path[: fixed or max(width.rows, wanted)]]
        step_ms = self._pipe.step_ms(len(nodes))
        verdict = next(inflight.due for inflight in session.inflight_windows if inflight.picks)
        waiting_ms = max(step_ms, (verdict - now) * 1000)  # a late result is still not here
        won = reached * first * waiting_ms / width.token_ms
        lost = (passes - 1) * step_ms**2 / (2 * self._pipe.trip_ms(1) * width.token_ms)
        return (won - lost) / len(nodes), nodes

    def _reached(self, session: Session) -> float:
        """Returns the chance that all drafts in flight are accepted."""
        believe, chance = session.beliefs.chance, 1.0
        for inflight in session.inflight_windows:
            for node in inflight.nodes:
                chance *= node.chance(believe)
        return chance


def in_step(session: Session) -> bool:
    """Whether a session has exactly one window in flight and that window has no drafts: it is ready as soon as this
    pass is back."""
    return len(session.inflight_windows) == 1 and not session.inflight_windows[0].nodes


def end_of(inflight: InFlightWindow) -> DraftNode | None:
    """Returns the last draft of a window, behind which the next window goes on; None: the window has no drafts."""
    return inflight.nodes[-1] if inflight.nodes else None
