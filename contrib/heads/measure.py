"""What a head brings: twd plain, with n-gram drafts, with the head, with both, beside llama-server with the same head.

    contrib/benchmarks/build_peers.sh
    .venv/bin/python contrib/heads measure head.gguf --target f32 --out measured.json

All of them run at once, and one is asked at a time, all of them each prompt of contrib/benchmarks/product in turn: so
whatever else the machine does slows all of them alike. A run that was ended goes on with the next prompt. `--report`
prints the table of the file, and measures nothing.
"""

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import psutil

from contrib.benchmarks.product.llama_server import SERVER, Launch, llama_server, programs_folder
from contrib.benchmarks.product.prompts import OWN, read_prompts, some
from twd.bench.product.http_client import Question, Server, ask_all, with_headers
from twd.bench.product.whole_system import WholeSystem
from twd.engine.demo_model import demo_model
from twd.process.cores import usable_cores

_CACHE: Final = Path.home() / ".cache" / "twd-bench"
_MODEL: Final = "target"
_CTX_SIZE: Final = 2048
_OFF: Final = {"x-twd-speculation": "off"}
_PLAIN, _NGRAM, _HEAD, _BOTH = "twd, plain", "twd, n-gram", "twd, head", "twd, head and n-gram"
_CHECKED: Final = ("twd_draft_tokens_checked_total", "spec_decode_num_draft_tokens_total")
_HELD: Final = ("twd_draft_tokens_accepted_total", "spec_decode_num_accepted_tokens_total")


class Measured(msgspec.Struct):
    """One answer."""

    target: str
    way: str
    question: str
    tokens: int
    decode_ms: float
    """Milliseconds from its first part to the last."""
    cpu_ms: float
    """Milliseconds that all its processes computed, for the prompt, too."""
    checked: int
    held: int
    text: str
    """Its hash."""


class Place(NamedTuple):
    """A server, and the processes it consists of."""

    server: Server
    processes: Sequence[psutil.Process]

    def cpu_ms(self) -> float:
        """What they have computed so far."""
        times = [one.cpu_times() for one in self.processes]
        return 1000 * sum(one.user + one.system for one in times)


Serve = Callable[[], Any]


def ways(args: argparse.Namespace, target: Path) -> dict[str, Serve]:
    """Everybody who is measured: a context in which a server answers."""
    found: dict[str, Serve] = {
        _PLAIN: partial(_twd, target, None, args.threads, ngram=False),
        _NGRAM: partial(_twd, target, None, args.threads, ngram=True),
        _HEAD: partial(_twd, target, args.head, args.threads, ngram=False),
        _BOTH: partial(_twd, target, args.head, args.threads, ngram=True),
    }
    programs = programs_folder(None)
    if programs is None:
        print(f"there is no {SERVER}; contrib/benchmarks/build_peers.sh builds it")
        return found
    found["llama-server, plain"] = partial(_peer, programs, target, (), args.threads)
    for count in args.windows:
        extra = ("--spec-type", "draft-eagle3", "--model-draft", str(args.head), "--spec-draft-n-max", str(count))
        found[f"llama-server, head, {count} drafts"] = partial(_peer, programs, target, extra, args.threads)
    return found


@contextmanager
def _twd(target: Path, head: Path | None, threads: int, *, ngram: bool) -> Iterator[Place]:
    home = Path(tempfile.mkdtemp(prefix="twd-heads-"))
    settings = {
        "models": {_MODEL: {"path": str(target), "ctx_size": _CTX_SIZE, "parallel": 1, "threads": threads}},
        "drafters": [{"head": str(head)}] if head else [],
        "speculation": {"ngram": {"enabled": ngram, "recall_tokens": 0}},
    }
    system = WholeSystem(home, settings)
    try:
        system.start()
        server = Server(system.url, _MODEL)
        processes = [psutil.Process(pid) for pid in system.processes().values()]
        yield Place(server if head or ngram else with_headers(server, _OFF), processes)
    finally:
        system.stop()
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _peer(programs: Path, target: Path, extra: tuple[str, ...], threads: int) -> Iterator[Place]:
    others = set(psutil.Process().children())
    with llama_server(Launch(programs, target, ("--metrics", *extra), 1, _CTX_SIZE, threads)) as server:
        yield Place(server, [one for one in psutil.Process().children() if one not in others])


def measure(args: argparse.Namespace) -> None:
    """The command."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started ends, too
    kept = msgspec.json.decode(args.out.read_bytes(), type=list[Measured]) if args.out.exists() else []
    for kind in () if args.report else args.target:
        known = {one.question for one in kept if one.target == kind}
        left = [one for one in some(read_prompts(OWN), args.limit) if one.name not in known]
        with ExitStack() as started:
            found = ways(args, demo_model(_CACHE, kind)) if left else {}
            servers = {
                way: started.enter_context(serve()) for way, serve in found.items() if not args.only or way in args.only
            }
            began = time.monotonic()
            for number, question in enumerate(left):
                if time.monotonic() - began > args.seconds:
                    break
                kept += _asked(kind, servers, question, args.max_tokens, number)
                args.out.write_bytes(msgspec.json.encode(kept))
    print(table(kept))


def _asked(
    kind: str, servers: dict[str, Place], question: Question, max_tokens: int, number: int
) -> Iterator[Measured]:
    """One question to all, who take turns at being the first."""
    order = list(servers.items())
    turn = number % len(order)
    for way, place in (*order[turn:], *order[:turn]):
        server, before, spent = place.server, _counted(place.server), place.cpu_ms()
        (reply,), _ = asyncio.run(ask_all(server, [question], max_tokens))
        spent = place.cpu_ms() - spent
        checked, held = (after - was for after, was in zip(_counted(server), before, strict=True))
        yield Measured(kind, way, question.name, reply.tokens, reply.decode_ms, spent, checked, held, reply.text_hash)


def _counted(server: Server) -> tuple[int, int]:
    """How many guesses were checked so far, and how many of them held."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=10) as answer:
        told = answer.read().decode()
    return _count(told, _CHECKED), _count(told, _HELD)


def _count(told: str, names: Sequence[str]) -> int:
    """The sum of all counters with one of these names."""
    lines = (line for line in told.splitlines() if not line.startswith("#"))
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines if any(name in line for name in names)))


def table(kept: Sequence[Measured]) -> str:
    """Everything that was measured, as Markdown."""
    lines = [
        "| target | | tok/s | against twd plain | by CPU time | tokens a pass | guesses that held | texts as plain |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys(one.target for one in kept):
        order = dict.fromkeys(one.way for one in kept if one.target == kind)
        lines += [_line([one for one in kept if one.target == kind], kind, way) for way in sorted(order)]
    return "\n".join(lines)


def _line(kept: Sequence[Measured], kind: str, way: str) -> str:
    own, plain = ({one.question: one for one in kept if one.way == name} for name in (way, _PLAIN))
    rate, usual = _rate(own.values()), _rate(plain.values())
    checked, held = sum(one.checked for one in own.values()), sum(one.held for one in own.values())
    tokens = sum(one.tokens for one in own.values())
    a_pass = f"{tokens / max(1, tokens - held):.2f}"
    right = f"{held} of {checked}, {held / checked:.0%}" if checked else ""
    equal = sum(one.text == plain[name].text for name, one in own.items() if name in plain)
    gain = f"{rate / usual:.2f}" if usual else ""
    cheap = f"{_per_cpu(own.values()) / _per_cpu(plain.values()):.2f}" if plain else ""
    return f"| {kind} | {way} | {rate:.1f} | {gain} | {cheap} | {a_pass} | {right} | {equal} of {len(own)} |"


def _rate(answers: Iterable[Measured]) -> float:
    """Tokens per second after the first part of each answer."""
    known = [one for one in answers if one.decode_ms]
    return 1000 * sum(one.tokens - 1 for one in known) / sum(one.decode_ms for one in known) if known else 0.0


def _per_cpu(answers: Collection[Measured]) -> float:
    """Tokens per second of computing, with the time for prompts."""
    return 1000 * sum(one.tokens for one in answers) / sum(one.cpu_ms for one in answers)


def add_options(found: argparse.ArgumentParser) -> None:
    """Those of this command."""
    found.add_argument("head", type=Path, help="GGUF file of a head")
    found.add_argument("--target", nargs="+", default=["f32", "f16"], help="weights of the demo model")
    found.add_argument("--out", type=Path, default=Path("measured.json"))
    found.add_argument("--limit", type=int, default=20, help="so many of the prompts; 0: all")
    found.add_argument("--max-tokens", type=int, default=64)
    found.add_argument("--threads", type=int, default=usable_cores())
    found.add_argument("--windows", type=int, nargs="+", default=[1, 2, 3], help="llama-server's draft lengths")
    found.add_argument("--only", nargs="+", default=[], help="measure these ways alone")
    found.add_argument("--seconds", type=float, default=1e9, help="no further prompt after so long")
    found.add_argument("--report", action="store_true", help="print the tables of --out")
    found.set_defaults(run=measure)
