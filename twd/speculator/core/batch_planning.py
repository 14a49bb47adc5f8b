"""What the next pass computes: windows of running sessions, chunks of new prompts, or nothing while better drafts are
awaited."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from twd.decoding.window import Window
from twd.drafting.history_ngram import HistoryNgram
from twd.drafting.window_value import Cost, best_cut
from twd.speculator.core.consensus import Consensus
from twd.speculator.core.draft_tree import DraftNode, lay_out
from twd.speculator.core.drafted_experts import DraftedExperts
from twd.speculator.core.expert_reads import ExpertReads
from twd.speculator.core.head_guesses import HeadOrder, guesses_wanted
from twd.speculator.core.limits import SpeculatorLimits
from twd.speculator.core.session import GRAMMAR, NGRAM, PREDICTION, RECALL, InFlightWindow, Session
from twd.speculator.core.step_runs import repeats_that_matter, steps_together
from twd.speculator.core.window_size import common_width, expected_tokens, worth_waiting
from twd.speculator.drafters.drafter_link import LATE, AttachedDrafter, DrafterLink
from twd.speculator.drafters.pool import DrafterPool

ROWS_TOGETHER = 96
"""Most rows of one pass that several sessions share."""
COMPARED = 6.0
"""So many drafts of a drafter were compared before a window may read experts for them."""
LIKELY = 0.7
"""With this chance, what a draft that waits will want from disk is worth reading ahead."""
PROMPT_ROWS, PROMPT_MS = 64, 80.0
"""While other sessions run, a pass has at most this many rows with prompts, or more if it takes no longer than
this."""


@dataclass(slots=True)
class NextStep:
    """The next pass, or no pass and the time `wake_at` until which to wait."""

    windows: list[Window] = field(default_factory=list)
    rows: int = 0
    wake_at: float | None = None
    under_way: bool = False
    """Whether results are to be collected, of these windows or of earlier ones."""
    read: list[Session] = field(default_factory=list)
    """The sessions of a pipeline whose whole prompt is on its way now."""

    def wait(self, until: float) -> None:
        """Wait until then at most."""
        self.wake_at = until if self.wake_at is None else min(until, self.wake_at)


class StepPlanner:
    """Chooses the windows of the next pass and records them in the sessions. The core handles the results."""

    def __init__(
        self,
        limits: SpeculatorLimits,
        cost: Cost,
        sessions: dict[int, Session],
        drafter_pool: DrafterPool,
        consensus: Consensus,
        drafted: DraftedExperts | None = None,
        shared_cost: Cost | None = None,
    ) -> None:
        """`shared_cost`: milliseconds of a pass that several sessions share, by its n_tokens; None: as of one."""
        self._limits = limits
        self.recall = HistoryNgram(limits.recall_tokens)
        self._cost = cost
        self._shared_cost = shared_cost or cost
        self._sessions = sessions
        self._drafter_pool = drafter_pool
        self._consensus = consensus
        self._drafted = drafted
        self._reads = ExpertReads(limits.missing_ms) if limits.missing_ms is not None else None

    def plan(self, now: float) -> NextStep:
        """Returns the windows of the next pass, or none and until when to wait for drafts."""
        plan = NextStep()
        here = [session for session in self._sessions.values() if not session.inflight_windows]
        ready = [session for session in here if not session.prefilling]
        self._plan_running(plan, [session for session in ready if not self._votes_first(plan, session, now)], now)
        if len(ready) < len(here):
            self._plan_prefill(plan, here)
        plan.under_way = any(session.inflight_windows for session in self._sessions.values())
        return plan

    def _votes_first(self, plan: NextStep, session: Session, now: float) -> bool:
        """Returns whether a session waits for drafters to agree, or has a window that reads the tokens they agreed
        on."""
        if self._awaits_votes(plan, session, now):
            return True
        if session.unread:
            self._read_unread(plan, session, now)
        return bool(session.inflight_windows)

    def _awaits_votes(self, plan: NextStep, session: Session, now: float) -> bool:
        """Returns whether a session waits for drafters to agree; the plan then tells until when."""
        if not session.job.speculation.consensus:
            return False
        pool = self._drafter_pool
        until = self._consensus.wait_until(session, self._cost(1), pool.vote_ms(session), pool.voted_at(session))
        if until is None:
            return False
        if now < until:
            plan.wait(until)
            return True
        self._consensus.waited(session)
        return False

    def _read_unread(self, plan: NextStep, session: Session, now: float) -> None:
        """Add a window in which the target reads the unread tokens, scores them and verifies drafts behind them."""
        nodes = self._behind_unread(session, now)
        tokens = (*session.tokens[session.fed :], *(node.token for node in nodes))
        goes_on = session.ending is None
        window = Window(
            session.slot, session.epoch, session.fed, tokens, scores=True, goes_on=goes_on, drafts=len(nodes)
        )
        plan.windows.append(window)
        session.inflight_windows.append(InFlightWindow(session.fed, nodes, None))
        session.spec_stats.passes += 1
        plan.rows += len(tokens)

    def _behind_unread(self, session: Session, now: float) -> list[DraftNode]:
        fixed = session.job.speculation.window
        limit = min(fixed or self._limits.max_window, self._limits.score_rows - 1 - session.unread)
        if session.ending is not None or limit <= 0:
            return []
        path = self._candidates(session, limit, chain=True)
        cut = self._cut(session, path, (now - session.passed_at) * 1000)
        return [node for node, _ in path[:cut]]

    def _plan_running(self, plan: NextStep, ready: list[Session], now: float) -> None:
        cost = self._cost if len(ready) == 1 else self._shared_cost
        steps = steps_together(ready, cost, self._limits) if len(ready) == len(self._sessions) else 1
        if len(ready) > 1:
            self._plan_together(plan, ready, steps)
            return
        for session in ready:
            nodes, parents, wake_at = self._choose(session, now, alone=len(self._sessions) == 1)
            if wake_at is not None:
                plan.wait(wake_at)
            else:
                self._launch(plan, session, nodes, parents, steps)

    def _plan_together(self, plan: NextStep, ready: list[Session], steps: int) -> None:
        """Several sessions share the pass. All windows have one width, so that the weights are read once."""
        limit = min(self._limits.max_window, max(0, ROWS_TOGETHER // len(ready) - 1))
        paths = [self._candidates(session, limit) for session in ready]
        chances = [[chance for _, chance in path] for path in paths]
        width = common_width(chances, self._shared_cost, limit, self._limits.undo)
        for session, path in zip(ready, paths, strict=True):
            self._launch(plan, session, [node for node, _ in path[: width - 1]], None, steps if width == 1 else 1)

    def _candidates(
        self, session: Session, limit: int, start: DraftNode | None = None, *, chain: bool = False
    ) -> list[tuple[DraftNode, float]]:
        if not session.speculates:
            return []
        root = session.tree.root
        ahead = start.at - root.at if start is not None else 0
        room = min(session.remaining - 1, self._limits.ctx_size - len(session.tokens) - 1) - ahead
        limit = min(limit, room)
        if limit <= 0 or not self._limits.can_rollback:
            return []
        self._guess(session, ahead + limit)
        self._guess_forced(session, start or root, limit)
        if self._limits.tree and not chain and start is None and len(self._sessions) == 1:
            path = session.tree.likeliest(session.believe, limit, self._limits.branches)
        else:
            path = session.tree.chain(session.believe, limit, start)
        return [guess for guess in path if guess[1]] if session.plain else path

    def _guess(self, session: Session, limit: int) -> None:
        """Add drafts that need no model: from earlier text of the session, from other answers, and from the text that
        the client expects."""
        guesses = {PREDICTION: session.prediction.propose(limit)}
        if self._limits.ngram:
            guesses[NGRAM] = session.ngram.propose(limit)
        if session.recalls:
            guesses[RECALL] = self.recall.propose(session.answer_end, limit)
        root = session.tree.root
        for author, (tokens, confidence) in guesses.items():
            if tokens:
                session.tree.add(author, root.at + 1, root.hash, tokens, [confidence] * len(tokens))

    def _guess_forced(self, session: Session, start: DraftNode, limit: int) -> None:
        """Add forced tokens of the grammar, from `start` on and also behind the drafts of others."""
        if session.ahead is None:
            return
        before = session.tree.path_to(start)
        end, length = start, -1
        chain: list[tuple[DraftNode, float]] = []
        while length < len(chain) < limit:
            length = len(chain)
            tokens, sure = session.ahead.propose(limit - length, [*before, *(node.token for node, _ in chain)])
            session.tree.add(GRAMMAR, end.at + 1, end.hash, tokens, sure)
            chain = session.tree.chain(session.believe, limit, start)
            end = chain[-1][0] if chain else start

    def _choose(
        self, session: Session, now: float, alone: bool
    ) -> tuple[list[DraftNode], list[int] | None, float | None]:
        """Returns the drafts to verify now with their parents, or until when to wait for more drafts."""
        if not session.speculates:
            return [], None, None
        fixed = session.job.speculation.window
        path = self._candidates(session, fixed or self._limits.max_window)
        waited_ms = (now - session.accepted_at) * 1000
        if alone:
            wake_at = self._linger(session, [chance for _, chance in path], waited_ms, fixed, now)
            if wake_at is not None:
                return [], None, wake_at
        cut = self._cut(session, path, waited_ms)
        if not fixed and self._only_compared(session, path):
            cut = 0
        else:
            self._foresee(session, cut)
        nodes = [node for node, _ in path[:cut]]
        if self._limits.tree and alone:
            nodes, parents = lay_out(nodes, session.tree.root)
            if any(parent != i for i, parent in enumerate(parents)):
                return nodes, [-1, *parents], None
        return nodes, None, None

    def _only_compared(self, session: Session, path: list[tuple[DraftNode, float]]) -> bool:
        """Returns whether drafts of unknown drafters are only compared with what the target says: that costs nothing,
        and each row of a window may read from disk."""
        if self._reads is None or not path:
            return False
        known, votes = session.beliefs.calibrations, path[0][0].votes
        return not any(name == GRAMMAR or (name in known and known[name].weight >= COMPARED) for name in votes)

    def _foresee(self, session: Session, cut: int) -> None:
        """Let experts be read ahead for drafts that are likely enough: what drafters told of the window that begins and
        of what waits behind it, else what tokens that wait chose before."""
        if self._limits.foresee is None:
            return
        line = session.tree.chain(session.believe, cut + self._limits.max_window)
        likely = [node for node, chance in line if chance >= LIKELY]
        told = set[int]()
        if self._drafted is not None:
            told = self._drafted.foresee([session.tree.root.hash, *(node.hash for node in likely)])
        tokens = [node.token for node in likely[cut:] if node.hash not in told]
        if tokens:
            self._limits.foresee(tokens)

    def _cost_of(self, session: Session, path: list[tuple[DraftNode, float]]) -> Cost:
        """Returns the cost of passes of the first rows of this window; on a tree, by their number alone."""
        if self._reads is None or self._limits.tree:
            return self._cost
        return self._reads.cost(self._cost, [session.tokens[-1], *(node.token for node, _ in path)])

    def _cut(self, session: Session, path: list[tuple[DraftNode, float]], waited_ms: float) -> int:
        """Returns how many of these drafts a window verifies: all, if the job says how many it wants."""
        cost = self._cost_of(session, path)  # it learns from every window
        if session.job.speculation.window:
            return len(path)
        undo, chances = self._limits.undo, [chance for _, chance in path]
        if undo is None:
            return best_cut(chances, cost, waited_ms)[0]
        return undo.best_cut(chances, cost, waited_ms, session.replay)

    def _linger(
        self, session: Session, chances: Sequence[float], waited_ms: float, fixed: int, now: float
    ) -> float | None:
        if session.first_at < 0:
            return None  # the first token waits for no drafts
        for name, link in session.links.items():
            drafter = self._drafter_pool.drafters.get(name)
            if drafter is None or link.reads_aside(drafter):
                continue
            depth = session.tree.depth(name)
            coming = link.expected(drafter, depth, session.beliefs.typical(name), now)
            if coming is None:
                self._note_lateness(link, drafter, depth, now)
                continue
            if fixed:
                wanted = len(chances) < fixed
            elif drafter.beside:  # its credit was set so that waiting pays; meanwhile it has the cores for itself
                wanted = sum(chances) < expected_tokens(coming.chance, coming.tokens)
            else:
                wanted = worth_waiting(
                    chances, self._drafter_pool.cost, waited_ms, coming, self._drafter_pool.usual_rate(session)
                )
            if wanted:
                return link.patience(drafter, depth)
        return None

    def _note_lateness(self, link: DrafterLink, drafter: AttachedDrafter, depth: int, now: float) -> None:
        overdue = not link.resting and depth < link.credit and now >= link.patience(drafter, depth)
        if overdue and link.heard_at <= link.told_at and link.late < LATE:
            link.late += 1
            drafter.silent = link.late >= LATE

    def _launch(
        self, plan: NextStep, session: Session, nodes: list[DraftNode], parents: list[int] | None, steps: int = 1
    ) -> None:
        guesses = tuple(node.token for node in nodes)
        if session.guessing:
            at, tokens = nodes[0].at, guesses
        else:
            at, tokens = len(session.tokens) - 1, (session.tokens[-1], *guesses)
        asked = self._asked(session, nodes)
        tree = tuple(parents) if parents else None
        steps = 1 if nodes else steps
        repeats = repeats_that_matter(session, self._limits) if steps > 1 else 0
        plan.windows.append(
            Window(
                session.slot,
                session.epoch,
                at,
                tokens,
                tree,
                guesses=asked.guesses,
                least=asked.least,
                steps=steps,
                repeats=repeats,
            )
        )
        plan.rows += len(tokens)
        session.inflight_windows.append(InFlightWindow(at, nodes, parents))
        session.spec_stats.passes += 1

    def _asked(self, session: Session, nodes: list[DraftNode]) -> HeadOrder:
        """Returns how many tokens the target's head should guess behind a window."""
        if not self._limits.head_ms or not self._limits.can_rollback:
            return HeadOrder()
        return guesses_wanted(session, nodes, self._cost, self._limits.head_ms, self._limits.max_window)

    def _plan_prefill(self, plan: NextStep, sessions: Sequence[Session]) -> None:
        """Add chunks of the prompts, oldest first. At least half of the rows of a pass are for prompts, however wide
        the windows of the other sessions are."""
        rows = self._prefill_rows()
        budget = max(rows // 2, rows - plan.rows)
        for session in sorted(sessions, key=lambda s: s.opened_at):
            if budget > 0 and session.prefilling:
                budget -= self._read_on(plan, session, budget)

    def _prefill_rows(self) -> int:
        """Returns how many rows a pass may have: the limit, or fewer while other sessions would wait long for its
        end."""
        rows = self._limits.prefill_rows
        if all(session.prefilling for session in self._sessions.values()):
            return rows
        while rows > PROMPT_ROWS and self._cost(rows) > PROMPT_MS:
            rows = max(PROMPT_ROWS, rows // 2)
        return rows

    def _read_on(self, plan: NextStep, session: Session, rows: int) -> int:
        """Add the next `rows` tokens of a prompt; the last chunk also picks a token. Returns how many tokens were
        added."""
        if session.judged is not None and rows > session.unfed:
            return self._score(plan, session, rows)
        count = min(rows, session.unfed - session.unread if session.unread else session.unfed + 1)
        last = count > session.unfed
        chunk = tuple(session.tokens[session.fed : session.fed + count])
        asked = self._asked(session, []) if last else HeadOrder()
        guesses, least = asked
        window = Window(
            session.slot, session.epoch, session.fed, chunk, None, last, count, guesses=guesses, least=least
        )
        plan.windows.append(window)
        session.inflight_windows.append(InFlightWindow(session.fed, [], None, picks=last))
        session.fed += count if not last else session.unfed
        session.spec_stats.passes += last
        plan.rows += count
        return count

    def _score(self, plan: NextStep, session: Session, rows: int) -> int:
        """Add the rest of the prompt and the next tokens of the given answer behind it. Returns how many tokens were
        added."""
        assert session.judged is not None
        read = tuple(session.tokens[session.fed :])
        room = max(0, min(rows, self._limits.score_rows) - len(read))
        given = tuple(islice(session.judged, min(room, self._limits.ctx_size - len(session.tokens))))
        ends = session.ends_behind(len(given))
        window = Window(
            session.slot,
            session.epoch,
            session.fed,
            (*read, *given),
            picks=bool(given) or ends,
            committed=len(read),
            scores=bool(given) or ends,
            ends=ends,
        )
        plan.windows.append(window)
        session.inflight_windows.append(InFlightWindow(session.fed, [], None, picks=window.picks))
        session.fed = len(session.tokens) - 1
        session.spec_stats.passes += 1
        plan.rows += len(window.tokens)
        return len(window.tokens)
