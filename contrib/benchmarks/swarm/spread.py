"""How long until all of n machines have a file: twd, BitTorrent (libtorrent) and rsync, over links of one rate.

    sudo python spread.py --program ../../../.venv/bin/twd --pullers 2 4 8 [--libtorrent PYTHON] [--rsync]

PYTHON is an interpreter that can import libtorrent. Every figure is wall time to the last machine, beside the bound
max(F/u, F/b, nF/(u+nb)) for links of u = b.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from links import address, inside, machines, sent_bytes

HERE = Path(__file__).parent


@contextlib.contextmanager
def running(commands: list[list[str]]) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that end with this block."""
    environment = {**os.environ, "TWD_SWARM_UPLOAD_MIB_S": "0"}
    made = [
        subprocess.Popen(one, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
        for one in commands
    ]
    try:
        yield made
    finally:
        for one in made:
            one.send_signal(signal.SIGKILL)
            one.wait()


def line_with(process: subprocess.Popen[str], word: str) -> str:
    """The first line that holds a word."""
    assert process.stdout is not None
    for line in process.stdout:
        if word in line:
            return line
    raise SystemExit(f"{process.args!r} ended without {word!r}")


def all_say(processes: list[subprocess.Popen[str]], word: str) -> list[float]:
    """When each of them said it, from now on."""
    began, ends = time.monotonic(), [0.0] * len(processes)

    def wait(number: int) -> None:
        line_with(processes[number], word)
        ends[number] = time.monotonic() - began

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(len(processes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ends


def by_twd(program: str, file: Path, count: int, folder: Path) -> list[float]:
    token = ["--token", "benchmark", "--port", "9080"]
    seed = inside(0, [program, "swarm", "seed", str(file), "--host", address(0), *token])
    with running([seed]) as (seeder,):
        line_with(seeder, "elsewhere")
        pulls = []
        for number in range(1, count + 1):
            (folder / str(number)).mkdir()
            others = [one for one in range(count + 1) if one != number]
            peers = [part for one in others for part in ("--peer", f"http://{address(one)}:9080")]
            where = ["--manifest", f"http://{address(0)}:9080/manifest", *peers, "--host", address(number), *token]
            pulls.append(
                inside(number, [program, "swarm", "pull", str(folder / str(number)), *where, "--stay", "--json"])
            )
        with running(pulls) as processes:
            return all_say(processes, '"finished"')


def by_libtorrent(python: str, file: Path, count: int, folder: Path) -> list[float]:
    script = [python, "-u", str(HERE / "torrent_peer.py")]
    every = [address(number) for number in range(count + 1)]
    with running([inside(0, [*script, str(file), str(file.parent), every[0], *every])]) as (seeder,):
        line_with(seeder, "finished")
        pulls = []
        for number in range(1, count + 1):
            (folder / str(number)).mkdir()
            pulls.append(inside(number, [*script, str(file), str(folder / str(number)), every[number], *every]))
        with running(pulls) as processes:
            return all_say(processes, "finished")


def by_rsync(file: Path, count: int, folder: Path) -> list[float]:
    config = folder / "rsyncd.conf"
    config.write_text(f"uid = root\ngid = root\nuse chroot = no\n[m]\npath = {file.parent}\n")
    daemon = inside(0, ["rsync", "--daemon", "--no-detach", f"--config={config}", "--port=9081"])
    with running([daemon]):
        time.sleep(1)
        pulls = []
        for number in range(1, count + 1):
            (folder / str(number)).mkdir()
            copy = f"rsync --whole-file rsync://{address(0)}:9081/m/{file.name} {folder}/{number}/ && echo finished"
            pulls.append(inside(number, ["sh", "-c", copy]))
        with running(pulls) as processes:
            return all_say(processes, "finished")


def measure(name: str, count: int, size: int, mb_s: float, work: Callable[[Path], list[float]]) -> None:
    rate = mb_s * 1e6
    bound = max(size / rate, count * size / (rate + count * rate))
    folder = Path(tempfile.mkdtemp(dir=ARGS.folder))
    try:
        with machines(count + 1, mb_s):
            before = sent_bytes(0)
            ends = work(folder)
            sent = sent_bytes(0) - before
            right = sum(1 for one in folder.glob("*/model.gguf") if one.stat().st_size == size)
    finally:
        shutil.rmtree(folder)
    told = {"what": name, "pullers": count, "first_s": round(min(ends), 1), "last_s": round(max(ends), 1)}
    more = {
        "bound_s": round(bound, 1),
        "times_bound": round(max(ends) / bound, 2),
        "seeder_sent_f": round(sent / size, 2),
    }
    print(json.dumps({**told, **more, "files": right}), flush=True)


def main() -> None:
    folder = Path(tempfile.mkdtemp(dir=ARGS.folder))
    file = folder / "model.gguf"
    with file.open("wb") as out:
        for _ in range(ARGS.mib):
            out.write(os.urandom(1 << 20))
    subprocess.run([ARGS.program, "manifest", "create", str(file)], check=True, stdout=subprocess.DEVNULL)
    size = ARGS.mib << 20
    try:
        for count in ARGS.pullers:
            if not ARGS.without_twd:
                measure("twd", count, size, ARGS.rate, partial(by_twd, ARGS.program, file, count))
            if ARGS.libtorrent:
                measure("libtorrent", count, size, ARGS.rate, partial(by_libtorrent, ARGS.libtorrent, file, count))
            if ARGS.rsync:
                measure("rsync", count, size, ARGS.rate, partial(by_rsync, file, count))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="twd")
    parser.add_argument("--pullers", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--rate", type=float, default=10.0, help="MB/s of each link, each way")
    parser.add_argument("--libtorrent", default="", metavar="PYTHON")
    parser.add_argument("--rsync", action="store_true")
    parser.add_argument("--without-twd", action="store_true")
    parser.add_argument("--folder", default=None, help="where the copies go; a memory disk takes the disk out of it")
    ARGS = parser.parse_args()
    main()
