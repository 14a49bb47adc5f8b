"""Who is measured: twd as `twd up` starts it, and llama-server with each of its settings. One at a time, alone."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from cases import LETTERS_A_TOKEN, Case, Engine
from llama_server import Launch, best_settings, cards, llama_server, on_cards
from prompts import lengthened

from twd.bench.product.http_client import Question, Reply, Server, ask_all, with_headers
from twd.bench.product.statistics import PEER, Phase, Run
from twd.bench.product.table import RECALLING, TWD
from twd.bench.product.whole_system import WholeSystem, give_cores
from twd.engine.demo_model import demo_model

CACHE = Path.home() / ".cache" / "twd-bench"
MODEL = "target"
OFF = {"x-twd-speculation": "off"}
CTX_SIZE = 2048
NGRAMS = ("ngram-simple", "ngram-mod")


@dataclass(frozen=True, slots=True)
class Options:
    """What holds for all cases."""

    questions: Sequence[Question]
    max_tokens: int
    threads: int
    programs: Path | None
    windows: Sequence[int] = (4, 8, 16)
    ngrams: Sequence[str] = NGRAMS
    apart: bool = False
    gpu: bool = False
    recall: bool = True


@dataclass(frozen=True, slots=True)
class Contestant:
    """One of those who are measured in a case."""

    name: str
    measure: Callable[[int], list[Run]]
    """Start it, ask everything, end it; the argument is the number of the start."""


def contestants(case: Case, options: Options) -> list[Contestant]:
    """All for this case."""
    found = [Contestant(TWD, partial(measure_twd, case, options, False))]
    if options.recall and case.clients == 1 and not case.prompt_tokens:
        found.append(Contestant(RECALLING, partial(measure_twd, case, options, True)))
    if options.programs is None:
        return found
    draft = str(weights(case.draft)) if case.draft else ""
    pooled = case.engine is not Engine.ALONE
    for setting, extra in best_settings(draft, options.windows, options.ngrams, pooled).items():
        name = f"{PEER}, {setting}"
        found.append(Contestant(name, partial(measure_peer, case, options, name, extra)))
    return found


def weights(kind: str) -> Path:
    """A file, or the demo model with weights of this kind."""
    file = Path(kind).expanduser()
    return file.resolve() if file.suffix == ".gguf" else demo_model(CACHE, kind)


def asked_in(case: Case, options: Options) -> list[Question]:
    """The prompts of a case."""
    return lengthened(options.questions, int(case.prompt_tokens * LETTERS_A_TOKEN))


# -- twd -------------------------------------------------------------------------------------------------


def measure_twd(case: Case, options: Options, recall: bool, start: int) -> list[Run]:
    """Without recall each prompt is asked plain, with drafts, and with drafts again; with it twice with drafts. Several
    clients ask plain in a start of their own: as many prompts as there are sessions would lie in caches."""
    questions, name = asked_in(case, options), RECALLING if recall else TWD
    ask = partial(_asked, case, name, start, options.max_tokens)
    with installation(case, options, recall) as server:
        if case.clients == 1 and not recall:
            first, plain = asyncio.run(_in_turns(server, questions, options.max_tokens))
            runs = [
                Run(case.name, name, start, phase, 1, 0.0, some)
                for phase, some in zip(_TURNS, (first, plain), strict=True)
            ]
            return [*runs, ask(server, questions, Phase.REPEAT)]
        runs = [ask(server, questions, Phase.FIRST), ask(server, questions, Phase.REPEAT)]
    if recall:
        return runs
    with installation(case, options, recall) as server:
        return [*runs, ask(with_headers(server, OFF), questions, Phase.PLAIN)]


_TURNS = (Phase.FIRST, Phase.PLAIN)


def _asked(
    case: Case, name: str, start: int, max_tokens: int, server: Server, questions: Sequence[Question], phase: Phase
) -> Run:
    replies, seconds = asyncio.run(ask_all(server, questions, max_tokens, case.clients))
    return Run(case.name, name, start, phase, case.clients, round(seconds, 3), replies)


async def _in_turns(server: Server, questions: Sequence[Question], max_tokens: int) -> tuple[list[Reply], list[Reply]]:
    """With drafts and plain in turn, plain half a list behind: no prompt still lies in a cache when it comes again."""
    first: list[Reply] = []
    plain: dict[int, Reply] = {}
    without, half = with_headers(server, OFF), len(questions) // 2
    for number, question in enumerate(questions):
        behind = (number + half) % len(questions)
        first += (await ask_all(server, [question], max_tokens))[0]
        plain[behind] = (await ask_all(without, [questions[behind]], max_tokens))[0][0]
    return first, [plain[number] for number in sorted(plain)]


@contextmanager
def installation(case: Case, options: Options, recall: bool) -> Iterator[Server]:
    """What a user starts, until it is ready: settings with a model and a drafter, and nothing else."""
    home = Path(tempfile.mkdtemp(prefix="twd-product-"))
    system = WholeSystem(home, settings_of(case, recall), words_of(case))
    try:
        system.start()
        if options.apart:
            set_apart(system.processes())
        yield Server(system.url, MODEL)
    finally:
        system.stop()
        shutil.rmtree(home, ignore_errors=True)


def settings_of(case: Case, recall: bool) -> dict[str, Any]:
    """The file that a user writes."""
    model: dict[str, Any] = {"path": str(weights(case.target)), "ctx_size": CTX_SIZE, "parallel": max(4, case.clients)}
    drafters = [{"path": str(weights(case.draft))}] if case.draft else []
    settings: dict[str, Any] = {"models": {MODEL: model}, "drafters": drafters}
    return settings if recall else {**settings, "speculation": {"ngram": {"recall_tokens": 0}}}


def words_of(case: Case) -> tuple[str, ...]:
    """The options of `twd up`."""
    if case.engine is Engine.ALONE:
        return ()
    return (f"--{case.engine}={case.machines}", f"--link-rtt={case.rtt_ms}")


def set_apart(processes: dict[str, int]) -> None:
    """The drafter has the last core for itself, everything else the others."""
    *others, last = sorted(os.sched_getaffinity(0))
    for name, pid in processes.items():
        cores = {last} if name.startswith("drafter") else set(others)
        for one in (pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))):
            give_cores(one, cores)


# -- llama-server ----------------------------------------------------------------------------------------


def measure_peer(case: Case, options: Options, name: str, extra: tuple[str, ...], start: int) -> list[Run]:
    """Every prompt once, by clients like twd's, over workers behind links like twd's."""
    assert options.programs is not None
    pooled = case.engine is not Engine.ALONE
    gpu = on_cards(cards(options.programs), "-md" in extra, pooled) if options.gpu else ()
    workers = case.machines if pooled else 0
    launch = Launch(
        options.programs,
        weights(case.target),
        (*gpu, *extra),
        case.clients,
        CTX_SIZE,
        options.threads,
        workers,
        case.rtt_ms,
    )
    phase = Phase.PLAIN if not extra else Phase.FIRST
    with llama_server(launch) as server:
        return [_asked(case, name, start, options.max_tokens, server, asked_in(case, options), phase)]
