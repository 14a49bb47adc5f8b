"""Every metric with its name, kind, labels and meaning; and the values, as plain numbers."""

import bisect
import enum
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

NAME_LENGTH_MAX: Final = 80
OTHER: Final = "other"
"""The label value for all names after the limit was reached."""

Labels = tuple[str, ...]


class MetricKind(enum.StrEnum):
    """The kind of a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, eq=False)  # compared by identity, so that finding one does not hash its fields
class MetricFamily:
    """One metric; each combination of label values is a separate series."""

    name: str
    kind: MetricKind
    about: str
    labels: Labels = ()
    buckets: tuple[float, ...] = ()


def _counter(name: str, about: str, *labels: str) -> MetricFamily:
    return MetricFamily(name, MetricKind.COUNTER, about, labels)


def _gauge(name: str, about: str, *labels: str) -> MetricFamily:
    return MetricFamily(name, MetricKind.GAUGE, about, labels)


def _seconds(name: str, about: str, *buckets: float) -> MetricFamily:
    return MetricFamily(name, MetricKind.HISTOGRAM, about, ("model",), buckets)


JOBS = _counter("twd_jobs_total", "Jobs that ended, and why.", "model", "outcome", "code")
TAKEOVERS = _counter("twd_job_takeovers_total", "Jobs that went on at another worker.", "model")
PROMPT_TOKENS = _counter("twd_prompt_tokens_total", "Tokens of prompts.", "model")
CACHED_TOKENS = _counter("twd_prompt_tokens_cached_total", "Tokens of prompts that were in the cache.", "model")
TOKENS = _counter("twd_tokens_generated_total", "Tokens of answers.", "model")
PASSES = _counter("twd_target_passes_total", "Forward passes of targets for jobs that ended.", "model")
DECODED_TOKENS = _counter("twd_decoded_tokens_total", "Tokens of jobs that ended.", "model")
DECODE_SECONDS = _counter("twd_decode_seconds_total", "Time from first to last token of jobs that ended.", "model")
PROPOSED = _counter("twd_draft_tokens_proposed_total", "Guesses that drafters sent.", "drafter")
CHECKED = _counter("twd_draft_tokens_checked_total", "Guesses that a target checked.", "model", "drafter")
ACCEPTED = _counter("twd_draft_tokens_accepted_total", "Checked guesses that held.", "model", "drafter")
CHECKED_AT = _counter("twd_draft_position_checked_total", "Checked guesses by place in a window.", "model", "position")
ACCEPTED_AT = _counter("twd_draft_position_accepted_total", "Held guesses by place in a window.", "model", "position")
REJECTED = _counter("twd_messages_rejected_total", "Messages that made no sense to their reader.", "event")
DROPPED = _counter("twd_messages_dropped_total", "Messages that a slow reader lost.", "event")
STARTS = _counter("twd_service_starts_total", "Services that became ready.", "service")
FAULTS = _counter("twd_service_faults_total", "Services that ended themselves over a fault.", "service", "code")
EXITS = _counter("twd_service_exits_total", "Processes whose end a supervisor saw.", "service")
RESTARTS = _counter("twd_service_restarts_total", "Processes that a supervisor started again.", "service")
MODEL_FAILURES = _counter("twd_model_failures_total", "Models that could not be loaded, or were lost.", "model", "code")
RING_PASSES = _counter("twd_ring_passes_total", "Passes that stages of rings computed.", "model", "layers")
RING_ROWS = _counter("twd_ring_rows_total", "Positions that stages computed.", "model", "layers")
RING_KEPT = _counter("twd_ring_rows_kept_total", "Positions that stand, as last stages judged them.", "model")
RING_DROPPED = _counter(
    "twd_ring_windows_dropped_total", "Windows of dead epochs that cost no pass.", "model", "layers"
)
RING_BUSY = _counter("twd_ring_compute_seconds_total", "Time in which stages computed.", "model", "layers")
RING_QUEUED = _counter("twd_ring_queue_seconds_total", "Time in which passes waited at stages.", "model", "layers")
RING_BYTES = _counter(
    "twd_ring_sent_bytes_total", "What stages sent on their links, by whom it went to.", "model", "layers", "to"
)
RING_RTT = _gauge("twd_ring_rtt_seconds", "Round trip of stages' links, lately.", "model", "layers", "to")
PULLS = _counter("twd_swarm_pulls_total", "Files that were to come from other machines.", "node", "outcome")
PULLED_BYTES = _counter("twd_swarm_pulled_bytes_total", "Bytes that machines took from others.", "node")
PULL_WASTE = _counter("twd_swarm_wasted_bytes_total", "Bytes that came twice or were wrong.", "node")
PULL_LEFT = _gauge("twd_swarm_left_bytes", "Bytes that are still to come from other machines.", "node")
PEERS_BANNED = _counter("twd_swarm_peers_banned_total", "Machines that were banned for wrong bytes.", "node")
FRAMES_REFUSED = _counter("twd_ring_frames_refused_total", "What came over links and made no sense.", "fault")
VERDICTS = _counter("twd_gate_verdicts_total", "Answers that a gate judged.", "model", "member", "verdict")
GATE_SECONDS = _counter("twd_gate_target_seconds_total", "The target's time for requests to a gate.", "model")
GATE_EXACT_SECONDS = _counter(
    "twd_gate_exact_seconds_total", "What exact speculation would have taken for them, as far as known.", "model"
)
GATE_MEMBER_SECONDS = _counter("twd_gate_member_seconds_total", "The members' time for them.", "model")
UNLIKE = _counter("twd_gate_unlike_tokens_total", "Passed tokens that the target would not have picked.", "model")
AUDITS = _counter("twd_gate_audits_total", "Passed answers that the target wrote, too.", "model", "member", "outcome")
AUDITED_ERROR = _gauge("twd_gate_audited_error_ratio", "Audited error rate and its interval.", "model", "member", "end")
MODES_CLOSED = _counter("twd_modes_closed_total", "Modes that became exact over errors.", "model", "mode")
AGREED = _counter("twd_consensus_accepted_total", "Tokens on which drafters agreed, and that stood unread.", "model")
FALLBACK = _counter("twd_consensus_fallback_total", "Tokens of consensus answers that the target decided.", "model")
AGREED_WRONG = _counter(
    "twd_consensus_unlike_tokens_total", "Agreed tokens that the target would not have picked.", "model"
)

FIRST_TOKEN = _seconds(
    "twd_time_to_first_token_seconds",
    "From the arrival of a job at its worker to its first token.",
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
TOKEN_GAP = _seconds(
    "twd_inter_token_seconds",
    "Pauses between two acceptances of one job; each may bring several tokens.",
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
DURATION = _seconds(
    "twd_job_duration_seconds",
    "From the arrival of a job at its worker to its end.",
    *(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600),
)
QUEUE_WAIT = _seconds(
    "twd_queue_wait_seconds",
    "From the arrival of a job at its worker to the begin of its prompt.",
    *(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60),
)

IN_PROGRESS = _gauge("twd_jobs_in_progress", "Jobs that started and have not ended.", "model")
WAITING = _gauge("twd_queue_jobs", "Jobs that wait for a session.", "model")
SESSIONS = _gauge("twd_sessions", "Sessions that a model serves now.", "model")
SESSIONS_MAX = _gauge("twd_sessions_max", "Sessions that it can serve at once.", "model")
KV_TOKENS = _gauge("twd_kv_tokens", "Tokens of the sessions in progress, in the KV cache.", "model")
KV_TOKENS_MAX = _gauge("twd_kv_tokens_max", "Tokens that the KV cache can hold.", "model")
MOE_MEMORY = _gauge("twd_moe_memory_bytes", "Memory for experts that are read from disk.", "model")
MOE_ASKED = _gauge("twd_moe_experts_wanted", "Experts that passes wanted since the model was loaded.", "model")
MOE_HITS = _gauge("twd_moe_experts_hit", "Those of them that were in memory.", "model")
MOE_READ = _gauge("twd_moe_read_bytes", "Bytes of experts read from disk since the model was loaded.", "model")
MOE_WAITED = _gauge("twd_moe_waited_seconds", "How long passes waited for experts since the model was loaded.", "model")
EXACT = _gauge("twd_model_exact", "1: drafts change no text of it, measured; 0: they may.", "model")
SINGLE_STEP = _gauge("twd_single_step_seconds", "Measured time of one token without drafts.", "model")
DRAFTER_STEP = _gauge("twd_drafter_token_seconds", "Measured time of one guess.", "model", "drafter")
AGREEMENT = _gauge("twd_drafter_agreement_ratio", "Share of a drafter's guesses that held lately.", "model", "drafter")
LEASES = _gauge("twd_leases", "Live services by the state that they tell.", "service", "state")
UNREAD = _counter("twd_metrics_unread_total", "Messages that the metrics service itself could not read.")
BUILD = _gauge("twd_build_info", "Always 1; the version is in the label.", "version")

FAMILIES: Final = tuple(value for value in list(globals().values()) if isinstance(value, MetricFamily))


class LabelValues:
    """The values of one label, limited in number: names from outside must not create any number of series."""

    def __init__(self, limit: int, known: Iterable[str] = ()) -> None:
        self._limit = limit
        self._seen = {clean(name) for name in known}

    def of(self, name: str) -> str:
        """The label value for this name: the name itself while the limit is not reached, else OTHER."""
        name = clean(name)
        if name in self._seen:
            return name
        if len(self._seen) >= self._limit:
            return OTHER
        self._seen.add(name)
        return name


def clean(name: str) -> str:
    """A name without unprintable characters, of limited length."""
    return "".join(letter for letter in name[:NAME_LENGTH_MAX] if letter.isprintable()) or "unknown"


@dataclass(slots=True)
class HistogramSeries:
    """One series of a histogram: how many values are in each bucket; the last bucket has no upper bound."""

    counts: list[int]
    total: float = 0.0


@dataclass
class MetricValues:
    """All series of all metrics."""

    values: dict[MetricFamily, dict[Labels, float]] = field(default_factory=dict)
    spreads: dict[MetricFamily, dict[Labels, HistogramSeries]] = field(default_factory=dict)

    def add(self, family: MetricFamily, *labels: str, by: float = 1.0) -> None:
        """Add to a counter; a number that is not positive is ignored."""
        if by > 0:
            series = self.values.setdefault(family, {})
            series[labels] = series.get(labels, 0.0) + by

    def put(self, family: MetricFamily, series: dict[Labels, float]) -> None:
        """Replace all series of a gauge; series that are not given disappear."""
        self.values[family] = series

    def observe(self, family: MetricFamily, *labels: str, value: float) -> None:
        """Add a value to its bucket of a histogram."""
        series = self.spreads.setdefault(family, {})
        spread = series.get(labels)
        if spread is None:
            spread = series[labels] = HistogramSeries([0] * (len(family.buckets) + 1))
        value = max(0.0, value)
        spread.counts[bisect.bisect_left(family.buckets, value)] += 1
        spread.total += value

    def value(self, family: MetricFamily, *labels: str) -> float:
        """The value of one series; 0 if nothing was counted."""
        return self.values.get(family, {}).get(labels, 0.0)
