"""Keeps the events of jobs and how jobs ended, within size limits."""

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final

from twd.wire.base import Event, JobId, SessionId
from twd.wire.job import CALIBRATION, JobFailed, JobFinished

HEAD_EVENTS: Final = 64
TAIL_EVENTS: Final = 448
STORY_BYTES_MAX: Final = 4 * 1024 * 1024
"""Bytes of one story. A story is sent in one message, and the bus refuses messages of more than twice this size."""
STORIES_BYTES_MAX: Final = 32 * 1024 * 1024
SESSIONS_MAX: Final = 4096


@dataclass(slots=True)
class JobStory:
    """The events of one job: the first ones and the latest ones."""

    head: list[bytes] = field(default_factory=list)
    tail: deque[bytes] = field(default_factory=deque)
    forgotten: int = 0
    size: int = 0

    def add(self, data: bytes) -> int:
        """Add one event; returns by how many bytes the story grew."""
        before = self.size
        self.size += len(data)
        if self._begins:
            self.head.append(data)
        else:
            self.tail.append(data)
        while len(self.tail) > TAIL_EVENTS or (self.tail and self.size > STORY_BYTES_MAX):
            self.size -= len(self.tail.popleft())
            self.forgotten += 1
        return self.size - before

    @property
    def _begins(self) -> bool:
        """Whether the next event still belongs to the first part."""
        full = len(self.head) >= HEAD_EVENTS or self.size > STORY_BYTES_MAX // 2
        return not full and not self.tail and not self.forgotten

    @property
    def events(self) -> list[bytes]:
        """All events that are kept, oldest first."""
        return [*self.head, *self.tail]


class JobMemory:
    """The stories of the latest jobs, and how the latest jobs ended."""

    def __init__(self, jobs_max: int, bytes_max: int = STORIES_BYTES_MAX) -> None:
        self._jobs_max = jobs_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self._stories: OrderedDict[JobId, JobStory] = OrderedDict()
        self._sessions: OrderedDict[SessionId, JobId] = OrderedDict()
        self._ended: OrderedDict[JobId, bytes] = OrderedDict()

    def hear(self, event: Event, data: bytes) -> None:
        """Keep an event if it belongs to a job."""
        job = self._job_of(event)
        if job is None:
            return
        self._bytes += self._stories.setdefault(job, JobStory()).add(data)
        self._stories.move_to_end(job)
        if isinstance(event, JobFinished | JobFailed):
            self.recall(event, data)
        self._make_room()

    def recall(self, event: JobFinished | JobFailed, data: bytes) -> None:
        """Keep the end of a job of this run or of an earlier one. Jobs that only measured a drafter are left out."""
        if event.job.startswith(CALIBRATION):
            return
        self._ended[event.job] = data
        self._ended.move_to_end(event.job)
        while len(self._ended) > self._jobs_max:
            self._ended.popitem(last=False)

    def _job_of(self, event: Event) -> JobId | None:
        job: JobId | None = getattr(event, "job", None)
        session: SessionId | None = getattr(event, "session", None)
        if job is None:
            return self._sessions.get(session) if session else None
        if session:
            self._sessions[session] = job
            if len(self._sessions) > SESSIONS_MAX:
                self._sessions.popitem(last=False)
        return job

    def _make_room(self) -> None:
        while len(self._stories) > max(1, self._jobs_max) or (self._bytes > self._bytes_max and len(self._stories) > 1):
            _, oldest = self._stories.popitem(last=False)
            self._bytes -= oldest.size

    def story(self, job: JobId) -> JobStory:
        """The story of one job; empty if nothing is kept."""
        return self._stories.get(job, JobStory())

    def history(self, limit: int) -> list[bytes]:
        """The last events of ended jobs, newest first."""
        return list(reversed(self._ended.values()))[:limit]

    @property
    def sizes(self) -> dict[str, int]:
        """How many entries are kept."""
        return {"stories": len(self._stories), "bytes": self._bytes, "ended": len(self._ended)}
