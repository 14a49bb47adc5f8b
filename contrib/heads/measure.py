"""What a head brings: twd plain, with n-gram drafts, with the head, with both, beside llama-server with the same head.

    contrib/benchmarks/build_peers.sh
    .venv/bin/python contrib/heads measure head.gguf --target f32 --out measured.json

Everybody is started afresh, alone, in turn, and asked some of the prompts of contrib/benchmarks/product over HTTP. A
run that was ended goes on where it was. `--report` prints the tables of the file, and measures nothing.
"""

import argparse
import asyncio
import shutil
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from contrib.benchmarks.product.llama_server import SERVER, Launch, llama_server
from contrib.benchmarks.product.prompts import OWN, read_prompts, some
from twd.bench.product.http_client import Question, Server, ask_all, with_headers
from twd.bench.product.statistics import rate_of
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
    """One start of one way."""

    target: str
    way: str
    start: int
    rate: float
    """Tokens per second after the first token of each answer."""
    checked: int
    held: int
    texts: list[str]
    """Hashes of the answers."""


Serve = Callable[[], Any]


def ways(args: argparse.Namespace, target: Path) -> dict[str, Serve]:
    """Everybody who is measured: a context in which a server answers."""
    found: dict[str, Serve] = {
        _PLAIN: partial(_twd, target, None, ngram=False),
        _NGRAM: partial(_twd, target, None, ngram=True),
        _HEAD: partial(_twd, target, args.head, ngram=False),
        _BOTH: partial(_twd, target, args.head, ngram=True),
    }
    programs = next(iter(sorted(Path("~/.cache/twd/peers").expanduser().glob("*/build/bin"), reverse=True)), None)
    if programs is None or not (programs / SERVER).exists():
        print(f"there is no {SERVER}; contrib/benchmarks/build_peers.sh builds it")
        return found
    found["llama-server, plain"] = partial(_peer, programs, target, ())
    for count in args.windows:
        extra = ("--spec-type", "draft-eagle3", "--model-draft", str(args.head), "--spec-draft-n-max", str(count))
        found[f"llama-server, head, {count} drafts"] = partial(_peer, programs, target, extra)
    return found


@contextmanager
def _twd(target: Path, head: Path | None, *, ngram: bool) -> Iterator[Server]:
    home = Path(tempfile.mkdtemp(prefix="twd-heads-"))
    settings = {
        "models": {_MODEL: {"path": str(target), "ctx_size": _CTX_SIZE, "parallel": 1}},
        "drafters": [{"head": str(head)}] if head else [],
        "speculation": {"ngram": {"enabled": ngram, "recall_tokens": 0}},
    }
    system = WholeSystem(home, settings)
    try:
        system.start()
        server = Server(system.url, _MODEL)
        yield server if head or ngram else with_headers(server, _OFF)
    finally:
        system.stop()
        shutil.rmtree(home, ignore_errors=True)


def _peer(programs: Path, target: Path, extra: tuple[str, ...]) -> Any:
    return llama_server(Launch(programs, target, ("--metrics", *extra), 1, _CTX_SIZE, usable_cores()))


def measure(args: argparse.Namespace) -> None:
    """The command."""
    kept = msgspec.json.decode(args.out.read_bytes(), type=list[Measured]) if args.out.exists() else []
    began, questions = time.monotonic(), some(read_prompts(OWN), args.limit)
    for start, kind, way, serve in [] if args.report else _missing(args, kept):
        if time.monotonic() - began > args.seconds:
            print("the time is up; the same command goes on from here")
            break
        kept.append(_measured(kind, way, start, serve, questions, args.max_tokens))
        args.out.write_bytes(msgspec.json.encode(kept))
        print(f"{kind}, {way}: {kept[-1].rate:.1f} tok/s", flush=True)
    print(table(kept))


def _missing(args: argparse.Namespace, kept: Sequence[Measured]) -> list[tuple[int, str, str, Serve]]:
    """What was not measured yet, in order."""
    known = {(one.start, one.target, one.way) for one in kept}
    found = [
        (start, kind, way, serve)
        for start in range(args.starts)
        for kind in args.target
        for way, serve in ways(args, demo_model(_CACHE, kind)).items()
    ]
    return [one for one in found if one[:3] not in known and (not args.only or one[2] in args.only)]


def _measured(
    kind: str, way: str, start: int, serve: Serve, questions: Sequence[Question], max_tokens: int
) -> Measured:
    with serve() as server:
        replies, _ = asyncio.run(ask_all(server, questions, max_tokens))
        counted = urllib.request.urlopen(f"{server.url}/metrics", timeout=10).read().decode()
    texts = [reply.text_hash for reply in replies]
    return Measured(kind, way, start, rate_of(replies), _count(counted, _CHECKED), _count(counted, _HELD), texts)


def _count(told: str, names: Sequence[str]) -> int:
    """The sum of all counters with one of these names."""
    lines = (line for line in told.splitlines() if not line.startswith("#"))
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines if any(name in line for name in names)))


def table(kept: Sequence[Measured]) -> str:
    """Everything that was measured, as Markdown."""
    lines = [
        "| target | | tok/s | against twd plain | guesses that held | texts as plain |",
        "|---|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys(one.target for one in kept):
        some_ways = dict.fromkeys(one.way for one in kept if one.target == kind)
        lines += [_line(kept, kind, way) for way in some_ways]
    return "\n".join(lines)


def _line(kept: Sequence[Measured], kind: str, way: str) -> str:
    own = {one.start: one for one in kept if (one.target, one.way) == (kind, way)}
    plain = {one.start: one for one in kept if (one.target, one.way) == (kind, _PLAIN)}
    ratios = [one.rate / plain[start].rate for start, one in own.items() if start in plain]
    checked, held = sum(one.checked for one in own.values()), sum(one.held for one in own.values())
    speed = f"{statistics.median(one.rate for one in own.values()):.1f}"
    gain = f"{statistics.median(ratios):.2f}" if ratios else ""
    right = f"{held} of {checked}, {held / checked:.0%}" if checked else ""
    pairs = [
        pair for start, one in own.items() if start in plain for pair in zip(one.texts, plain[start].texts, strict=True)
    ]
    equal = f"{sum(ours == theirs for ours, theirs in pairs)} of {len(pairs)}"
    return f"| {kind} | {way} | {speed} | {gain} | {right} | {equal} |"


def add_options(found: argparse.ArgumentParser) -> None:
    """Those of this command."""
    found.add_argument("head", type=Path, help="GGUF file of a head")
    found.add_argument("--target", nargs="+", default=["f32", "f16"], help="weights of the demo model")
    found.add_argument("--out", type=Path, default=Path("measured.json"))
    found.add_argument("--limit", type=int, default=20, help="so many of the prompts; 0: all")
    found.add_argument("--max-tokens", type=int, default=96)
    found.add_argument("--starts", type=int, default=1)
    found.add_argument("--windows", type=int, nargs="+", default=[2, 3, 4], help="llama-server's draft lengths")
    found.add_argument("--only", nargs="+", default=[], help="measure these ways alone")
    found.add_argument("--seconds", type=float, default=1e9, help="begin nothing after so long")
    found.add_argument("--report", action="store_true", help="print the tables of --out")
    found.set_defaults(run=measure)
