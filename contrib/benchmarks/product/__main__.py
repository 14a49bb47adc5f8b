"""What users get: `twd up` beside llama-server, over HTTP, with the same files, prompts and links, in one run.

    contrib/benchmarks/build_peers.sh
    .venv/bin/python contrib/benchmarks/product --programs DIR --starts 5 --out product.json

Everybody is started afresh for each round, alone, in an order that changes. What was measured is kept in `--out` after
each of them; a run that was ended goes on there. `--report` prints the tables of such a file, and measures nothing.
"""

import argparse
import platform
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from cases import Case, all_cases, named
from contestants import NGRAMS, Contestant, Options, contestants
from llama_server import programs_folder
from prompts import OWN, read_prompts, some

import twd
from twd.agent.probes.cpu import cpu_facts
from twd.bench.product.statistics import Results, speed_of
from twd.bench.product.table import tables
from twd.process.cores import usable_cores


def rounds(cases: Sequence[Case], options: Options, starts: int) -> Iterator[tuple[int, Case, Contestant]]:
    """Everything that is to be started, in this order: in each round each case, by all in turn."""
    for start in range(starts):
        for case in cases:
            found = contestants(case, options)
            turn = start % len(found)
            for contestant in (*found[turn:], *found[:turn]):
                yield start, case, contestant


def measure(results: Results, args: argparse.Namespace, options: Options) -> None:
    """Whatever is not in the file yet, until all is there or the time is up."""
    cases = named(all_cases(args.target, args.draft), args.cases)
    if not cases:
        raise SystemExit("no case has such a name; --list prints them")
    began = time.monotonic()
    for start, case, contestant in rounds(cases, options, args.starts):
        if results.has(case.name, contestant.name, start):
            continue
        if args.minutes and time.monotonic() - began > 60 * args.minutes:
            print("the time is up; the same command goes on from here", file=sys.stderr)
            return
        runs = contestant.measure(start)
        results.runs += runs
        args.out.write_bytes(msgspec.json.encode(results))
        told = ", ".join(f"{run.phase} {speed_of(run):.1f}" for run in runs)
        print(f"start {start + 1}, {case.name}: {contestant.name}: {told} tok/s", file=sys.stderr, flush=True)


def about(args: argparse.Namespace, options: Options) -> Results:
    """The machine and the settings, with nothing measured yet."""
    cpu = cpu_facts()
    machine = {"machine": f"{cpu.name}, {usable_cores()} cores, {platform.system()}", "twd": twd.__version__}
    settings = {
        "prompts": f"{len(options.questions)} of {args.prompts.name}",
        "tokens at most": str(options.max_tokens),
        "drafter on a core of its own": "yes" if options.apart else "no",
        "taken": datetime.now(UTC).date().isoformat(),
    }
    return Results(machine, settings)


def main(args: argparse.Namespace) -> None:
    """Measure what is missing, and print the tables."""
    if args.list:
        print("\n".join(case.name for case in all_cases(args.target, args.draft)))
        return
    options = Options(
        questions=some(read_prompts(args.prompts), args.limit),
        max_tokens=args.max_tokens,
        threads=args.threads,
        programs=None if args.alone else programs_folder(args.programs),
        windows=args.windows,
        ngrams=args.ngrams,
        apart=args.apart,
        gpu=args.gpu,
        recall=not args.no_recall,
    )
    kept = args.out.exists() and args.out.stat().st_size > 0
    results = msgspec.json.decode(args.out.read_bytes(), type=Results) if kept else about(args, options)
    if not args.report:
        if options.programs is None and not args.alone:
            raise SystemExit("no llama-server is here: run contrib/benchmarks/build_peers.sh, or leave it out: --alone")
        measure(results, args, options)
    print(tables(results))


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--out", type=Path, default=Path("product.json"), help="JSON file with all that was measured")
    found.add_argument("--cases", nargs="+", default=["*"], help='names or patterns, as "ring of 2*"')
    found.add_argument("--list", action="store_true", help="print the names of all cases")
    found.add_argument("--report", action="store_true", help="print the tables of --out")
    found.add_argument("--starts", type=int, default=5, help="fresh starts of everybody; the least counts")
    found.add_argument("--prompts", type=Path, default=OWN, help="one a line: text, or JSON with kind and prompt")
    found.add_argument("--limit", type=int, default=0, help="so many of the prompts; 0: all")
    found.add_argument("--max-tokens", type=int, default=64)
    found.add_argument("--minutes", type=float, default=0.0, help="begin nothing after so long; 0: go on to the end")
    found.add_argument("--target", default="", help="a GGUF file, or weights of the demo model: f32, f16, q8_0, ...")
    found.add_argument("--draft", default="", help="the same of the draft model")
    found.add_argument("--programs", type=Path, help="folder of llama-server and ggml-rpc-server")
    found.add_argument("--alone", action="store_true", help="measure twd alone")
    found.add_argument("--threads", type=int, default=usable_cores(), help="of llama-server and each of its workers")
    found.add_argument("--windows", type=int, nargs="+", default=[4, 8, 16], help="llama-server's draft lengths")
    found.add_argument("--ngrams", nargs="*", default=NGRAMS, help="llama-server's drafts by n-grams")
    found.add_argument("--apart", action="store_true", help="twd's drafter has the last core for itself")
    found.add_argument("--gpu", action="store_true", help="llama-server has all layers on the GPU, as twd would")
    found.add_argument("--no-recall", action="store_true", help="leave out the runs with recall")
    return found


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends what it started
    main(parser().parse_args())
