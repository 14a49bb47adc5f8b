"""Pulls one file: sends the requests of the picker, checks each unit in a thread, writes it and reports it."""

import asyncio
import hashlib
import os
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple, TypeVar

from twd.kit.tasks import TaskGroup, heard
from twd.pieces.partial import NoRoomForFile, PartialFile
from twd.pieces.source import Source, SourceError, SourceTrouble
from twd.swarm.core import Picker, Request
from twd.swarm.pace import Pace
from twd.swarm.shared import Shared
from twd.wire.failures import FailureCode, TwdError

TICK_S: Final = 0.25
SYNC_S: Final = 2.0
NOBODY_S: Final = 30.0
"""Seconds that a pull waits for a source with the missing units."""
JUDGED_MAX: Final = 12
"""The most units that wait for their hash check; more would fill the memory, so reading pauses."""
JUDGES: Final = 2
RATE_S: Final = 5.0
AGAIN_S: Final = 0.5
"""Seconds until a source whose news ended is asked for them again."""
T = TypeVar("T")
Ranges = Sequence[tuple[int, int]]


class Progress(NamedTuple):
    """The progress of a pull."""

    done_bytes: int
    total_bytes: int
    bytes_s: float
    sources: int
    banned: int

    @property
    def eta_s(self) -> float:
        """Estimated seconds to the end; infinite while nothing arrives."""
        left = self.total_bytes - self.done_bytes
        return left / self.bytes_s if self.bytes_s else float("inf") if left else 0.0


@dataclass
class Hooks:
    """Callbacks of a pull; called on the event loop."""

    banned: Callable[[str, str, int], None] = lambda name, reason, unit: None
    trouble: Callable[[str, str], None] = lambda name, text: None


@dataclass
class Counts:
    """Counters of a pull."""

    fetched_bytes: int = 0
    wasted_bytes: int = 0
    """Bytes that came twice or were wrong."""
    wrong_units: int = 0
    by_source: dict[str, int] = field(default_factory=dict)

    @classmethod
    def sum_of(cls, several: "Iterable[Counts]") -> "Counts":
        """Return the counts of several pulls together."""
        total = cls()
        for one in several:
            total.fetched_bytes += one.fetched_bytes
            total.wasted_bytes += one.wasted_bytes
            total.wrong_units += one.wrong_units
            for source, size in one.by_source.items():
                total.by_source[source] = total.by_source.get(source, 0) + size
        return total


class Pull:
    """The pull of one file. `run` returns when all wanted units are there, or raises why they cannot come."""

    def __init__(
        self,
        file: PartialFile,
        *,
        shared: Shared | None = None,
        parallel: int = 4,
        ranges: Ranges | None = None,
        sha256: str = "",
        pace: Pace | None = None,
        hooks: Hooks | None = None,
        patience_s: float = NOBODY_S,
    ) -> None:
        """`ranges`: pull only the units with these bytes; the file stays partial.

        `sha256`: checked over the whole file at the end, if its unit hashes came from a hub's bytes.
        """
        self.file, self._shared, self._sha256, self._patience_s = file, shared, sha256, patience_s
        self._only = None if ranges is None else list(ranges)
        self._hooks, self._pace, self.counts = hooks or Hooks(), pace or Pace(), Counts()
        checks = file.checks
        wanted = [index for index in self._wanted() if index not in file.have]
        known = (index for index, digest in enumerate(checks.digests) if digest is not None)
        self.sampler = Picker(len(checks), checks.unit, wanted, random.randrange, parallel=parallel, known=known)
        self._sources: dict[str, Source] = {}
        self._running: dict[Request, asyncio.Task[None]] = {}
        self._stirred = asyncio.Event()
        self._judging = asyncio.Semaphore(JUDGED_MAX)
        self._threads = ThreadPoolExecutor(JUDGES, "judge")
        self._tasks = TaskGroup("pull", self._failed)
        self._fatal: BaseException | None = None
        self._reasons: dict[str, str] = {}
        self._marks: list[tuple[float, int]] = []

    def _wanted(self) -> Iterable[int]:
        checks = self.file.checks
        if self._only is None:
            return range(len(checks))
        return sorted({index for begin, end in self._only for index in checks.of_range(begin, end)})

    # -- sources ---------------------------------------------------------------------------------

    def add(self, source: Source, near_s: float = 0.0) -> None:
        """Add a source; a banned source stays banned."""
        if source.name in self._sources or source.name in self.sampler.banned:
            return
        self._sources[source.name] = source
        self.sampler.join(source.name, defines=source.defines, most=source.most, least=source.least, near_s=near_s)
        self._tasks.start(f"news of {source.name}", self._listen(source))

    def names(self) -> list[str]:
        """Return the names of the sources in use."""
        return list(self._sources)

    def drop(self, name: str) -> None:
        """Remove a source."""
        if self._sources.pop(name, None) is not None:
            self.sampler.leave(name)

    async def _listen(self, source: Source) -> None:
        """Follow which units a source has; after a failure it is asked again later."""
        failures = 0
        while source.name in self._sources:
            try:
                async for news in source.news():
                    failures = 0
                    self._learn(source, news.hashes)
                    self.sampler.tell(source.name, news.have, news.coming, news.lost)
                    self._stirred.set()
                if self.sampler.has_all(source.name):
                    return
                await asyncio.sleep(AGAIN_S)  # it shares the file anew, or no more
            except SourceError as error:
                failures += 1
                self._trouble(source, error)
                if error.trouble in (SourceTrouble.REFUSED, SourceTrouble.WRONG):
                    self.drop(source.name)
                    return
                await asyncio.sleep(error.retry_s or min(10.0, 0.5 * 2.0 ** min(failures, 6)))

    def _learn(self, source: Source, hashes: dict[int, str]) -> None:
        """Learn unit hashes from a machine of the same bus, for a file that comes from a hub."""
        if not self._sha256:
            return  # the manifest has all hashes
        for index, digest in hashes.items():
            if 0 <= index < len(self.file.checks):
                self.file.checks.learn(index, bytes.fromhex(digest))
                self.sampler.hashed(index)

    def _trouble(self, source: Source, error: SourceError) -> None:
        self._reasons[source.name] = str(error)
        self._hooks.trouble(source.name, str(error))

    # -- the run -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until all is there; at the end the partial file is closed or renamed in any case."""
        try:
            await self._until_there()
            await self._tasks.close()
            await self._finish()
        finally:
            await self._tasks.close()
            await asyncio.to_thread(self._threads.shutdown)
            if self.file.descriptor >= 0:
                await asyncio.to_thread(self.file.close)

    async def _until_there(self) -> None:
        clock = asyncio.get_running_loop().time
        synced = moved = clock()
        left = self.sampler.left
        while self.sampler.left:
            if self._fatal is not None:
                raise self._fatal
            now = clock()
            if self.sampler.left != left or self._running:
                moved, left = now, self.sampler.left
            if now - moved > self._patience_s:
                raise self._nobody()
            if now - synced > SYNC_S:
                synced = now
                self._tasks.start("sync", asyncio.to_thread(self.file.sync))
            self._ask(now)
            self._stirred.clear()
            await heard(self._stirred, TICK_S)

    def _ask(self, now: float) -> None:
        for request in self.sampler.hung(now):
            self._give_up(request)
        for request in self.sampler.decide(now):
            if self._shared is not None:
                self._shared.asked(request.open)
            task = self._tasks.start(f"ask {request.source}", self._fetch(request))
            self._running[request] = task
            task.add_done_callback(partial(self._ended, request))

    def _ended(self, request: Request, task: asyncio.Task[None]) -> None:
        self._running.pop(request, None)
        if self._shared is not None:
            self._shared.lost(index for index in request.open if index not in self.file.have)
        self._stirred.set()

    def _give_up(self, request: Request) -> None:
        self.sampler.failed(request, asyncio.get_running_loop().time())
        task = self._running.get(request)
        if task is not None:
            task.cancel()

    def _nobody(self) -> TwdError:
        missing = len(self.sampler.missing())
        why = "; ".join([*self.sampler.banned.values(), *self._reasons.values()][:4]) or "no source was found"
        text = f"nobody has the {missing} MiB of {self.file.target.name} that are missing: {why}"
        code = FailureCode.WRONG_BYTES if self.sampler.banned and not self._sources else FailureCode.NO_SOURCE
        return TwdError(code, text)

    def _failed(self, name: str, error: BaseException) -> None:
        if isinstance(error, OSError):
            error = _disk_error(self.file, error)
        self._fatal = self._fatal or error
        self._stirred.set()

    # -- one request -----------------------------------------------------------------------------

    async def _fetch(self, request: Request) -> None:
        clock = asyncio.get_running_loop().time
        source = self._sources.get(request.source)
        if source is None:
            return self.sampler.over(request)
        try:
            await self._read(source, request)
            self.sampler.over(request)
        except SourceError as error:
            self._trouble(source, error)
            self.sampler.failed(request, clock(), error.retry_s)
            if error.trouble in (SourceTrouble.REFUSED, SourceTrouble.WRONG):
                self.drop(source.name)
        except asyncio.CancelledError:
            self.sampler.over(request)
            raise

    async def _read(self, source: Source, request: Request) -> None:
        """Read the bytes of a request, unit by unit."""
        clock, checks = asyncio.get_running_loop().time, self.file.checks
        begin, _ = checks.place(request.first)
        last, length = checks.place(request.first + request.count - 1)
        index, filled = request.first, 0
        buffer = bytearray(checks.place(index)[1])
        async for data in source.read(begin, last + length - begin):
            self.counts.fetched_bytes += len(data)
            self.sampler.heard(request, clock())
            view = memoryview(data)
            while view:
                part = min(len(view), len(buffer) - filled)
                buffer[filled : filled + part] = view[:part]
                view, filled = view[part:], filled + part
                if filled == len(buffer):
                    await self._judging.acquire()
                    self.sampler.came(request, clock())
                    self._tasks.start("judge", self._judge(source, index, buffer))
                    index, filled = index + 1, 0
                    if index < request.first + request.count:
                        buffer = bytearray(checks.place(index)[1])
            await self._pace.passed(len(data))

    async def _judge(self, source: Source, index: int, data: bytearray) -> None:
        try:
            right = await self._in_thread(lambda: self._take(index, data, source.defines))
        finally:
            self._judging.release()
        if right is None:
            self.counts.wasted_bytes += len(data)
        elif right:
            self._got(source, index, len(data))
        else:
            self._wrong(source, index, len(data))
        self._stirred.set()

    def _take(self, index: int, data: bytearray, defines: bool) -> bool | None:
        """In a thread: check a unit and write it. Returns True if right, False if wrong, None if there already."""
        if index in self.file.have:
            return None
        checks = self.file.checks
        if defines and checks.digests[index] is None:
            checks.learn(index, checks.digest(data))
        elif not checks.holds(index, data):
            return False
        return self.file.put(index, data) or None

    def _got(self, source: Source, index: int, length: int) -> None:
        by = self.counts.by_source
        by[source.name] = by.get(source.name, 0) + length
        self.sampler.hashed(index)
        self.sampler.got(index)
        if self._shared is not None:
            self._shared.came(index)
        for request, task in list(self._running.items()):  # cancel other requests for the same units
            if index in request.open and all(one in self.file.have for one in request.open):
                task.cancel()

    def _wrong(self, source: Source, index: int, length: int) -> None:
        self.counts.wrong_units += 1
        self.counts.wasted_bytes += length
        self.sampler.wrong(index)
        reason = f"{source.name} sent a wrong MiB {index} of {self.file.target.name}"
        self._sources.pop(source.name, None)
        mine = [one for one in self._running if one.source == source.name]
        if self.sampler.ban(source.name, reason):
            self._hooks.banned(source.name, reason, index)
        for request in mine:
            self._running[request].cancel()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        loop: Callable[..., Awaitable[T]] = asyncio.get_running_loop().run_in_executor
        return await loop(self._threads, work)

    # -- the end -----------------------------------------------------------------------------------

    async def _finish(self) -> None:
        if self._fatal is not None:
            raise self._fatal
        if self._only is not None:
            return
        if self._sha256:
            await asyncio.to_thread(self._check_whole)
        await asyncio.to_thread(self.file.finish)
        if self._shared is not None:
            self._shared.settled(self.file.target)

    def _check_whole(self) -> None:
        digest, at = hashlib.sha256(), 0
        while data := os.pread(self.file.descriptor, 1 << 22, at):
            digest.update(data)
            at += len(data)
        if digest.hexdigest() != self._sha256:
            self.file.forget()
            text = (
                f"{self.file.target.name} has SHA-256 {digest.hexdigest()[:12]}, and {self._sha256[:12]} was promised; "
                "its bytes are kept aside and will be fetched anew"
            )
            raise TwdError(FailureCode.WRONG_BYTES, text)

    def came_early(self, index: int, store: str) -> None:
        """Note that a unit is there which no request of this pull brought, as it was copied from another file."""
        self.sampler.hashed(index)
        if self.sampler.got(index):
            by = self.counts.by_source
            by[store] = by.get(store, 0) + self.file.checks.place(index)[1]
            if self._shared is not None:
                self._shared.came(index)

    def progress(self) -> Progress:
        """Return the current progress."""
        now, checks = asyncio.get_running_loop().time(), self.file.checks
        total = sum(checks.place(index)[1] for index in self._wanted()) if self._only is not None else checks.size
        done = max(0, total - self.sampler.left * checks.unit)
        self._marks = [mark for mark in self._marks if now - mark[0] <= RATE_S] + [(now, done)]
        since, before = self._marks[0]
        rate = (done - before) / (now - since) if now > since else 0.0
        return Progress(done, total, rate, len(self._sources), len(self.sampler.banned))


def _disk_error(file: PartialFile, error: OSError) -> BaseException:
    import errno

    folder = file.target.parent
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoRoomForFile(
            f"the disk of {folder} is full; what came of {file.target.name} is kept: make room, pull again"
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return TwdError(
            FailureCode.BAD_REQUEST, f"{folder} may not be written to ({error.strerror}); name another DEST"
        )
    return error
