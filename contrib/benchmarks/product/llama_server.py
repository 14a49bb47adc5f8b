"""llama-server and its RPC workers, as their users start them, ready to be asked."""

import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from twd.bench.product.http_client import Server
from twd.bench.rpc_plain import slow_links
from twd.net.ports import free_port, free_ports

HOST = "127.0.0.1"
READY_S = 120.0
LISTING_S = 30.0
CARD = re.compile(r"^ +(\w+): .*MiB", re.MULTILINE)
WORKER, SERVER = "ggml-rpc-server", "llama-server"


@dataclass(frozen=True, slots=True)
class Launch:
    """What to start: the programs' folder, the target, further arguments, workers and how far away they are."""

    programs: Path
    target: Path
    extra: tuple[str, ...]
    clients: int
    ctx_size: int
    threads: int
    workers: int = 0
    rtt_ms: float = 0.0


def programs_folder(given: Path | None) -> Path | None:
    """Where llama-server is: as told, where build_peers.sh puts it, or on the path."""
    built = sorted(Path("~/.cache/twd/peers").expanduser().glob("*/build/bin"))
    found = shutil.which(SERVER)
    on_path = [Path(found).parent] if found else []
    places = [
        folder for folder in (*([given] if given else []), *reversed(built), *on_path) if (folder / SERVER).exists()
    ]
    if given and given not in places:
        raise SystemExit(f"there is no {SERVER} in {given}; build it with contrib/benchmarks/build_peers.sh")
    return places[0] if places else None


@contextmanager
def llama_server(launch: Launch) -> Iterator[Server]:
    """One that answers."""
    port = free_port()
    command = [str(launch.programs / SERVER), "-m", str(launch.target), "-t", str(launch.threads), "-fa", "on"]
    command += ["-c", str(launch.ctx_size * launch.clients), "-np", str(launch.clients), "--no-webui"]
    with ExitStack() as others:
        over = others.enter_context(_workers(launch)) if launch.workers else []
        with _process([*command, "--host", HOST, "--port", str(port), *over, *launch.extra]) as process:
            url = f"http://{HOST}:{port}"
            _until(lambda: urllib.request.urlopen(f"{url}/health", timeout=2).close(), process)
            yield Server(url)


def cards(programs: Path) -> list[str]:
    """The names of the cards that llama-server sees."""
    command = [str(programs / SERVER), "--list-devices"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LISTING_S)
    found = CARD.findall(listed.stdout)
    if not found:
        why = listed.stderr.strip() or "it was built without a backend for one"
        mend = "name another build with --programs, or a backend with GGML_BACKEND_PATH"
        raise SystemExit(f"--gpu: {programs / SERVER} sees no card: {why}; {mend}")
    return found


def on_cards(names: Sequence[str], draft: bool, pooled: bool) -> tuple[str, ...]:
    """The options that put all layers on these cards. They are named, as llama-server loads the backend of
    GGML_BACKEND_PATH only then. In a pool the workers have the target, and the draft model stays with the processor."""
    if pooled:
        return ()
    named = ",".join(names)
    return ("-ngl", "99", "--device", named, *(("-ngld", "99", "-devd", named) if draft else ()))


@contextmanager
def _workers(launch: Launch) -> Iterator[list[str]]:
    """The options that spread a model evenly over fresh workers behind slow links."""
    ports = free_ports(launch.workers)
    command = [str(launch.programs / WORKER), "-H", HOST, "-t", str(launch.threads), "-p"]
    with ExitStack() as started:
        for port in ports:
            process = started.enter_context(_process([*command, str(port)]))
            _until(partial(_knock, port), process)
        endpoints = started.enter_context(slow_links(ports, launch.rtt_ms))
        split = ",".join("1" for _ in ports)
        yield ["--rpc", ",".join(endpoints), "-ngl", "99", "-ts", split, "-fit", "off"]


@contextmanager
def _process(command: Sequence[str]) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _knock(port: int) -> None:
    socket.create_connection((HOST, port), 1).close()


def _until(attempt: Callable[[], None], process: "subprocess.Popen[bytes]") -> None:
    give_up = time.monotonic() + READY_S
    while True:
        try:
            attempt()
        except OSError:
            if process.poll() is not None:
                raise SystemExit(f"it ended with {process.returncode}: {process.args!r}") from None
            if time.monotonic() > give_up:
                raise SystemExit(f"not ready within {READY_S:g} s: {process.args!r}") from None
            time.sleep(0.05)
        else:
            return


def best_settings(
    draft: str, windows: Sequence[int], ngrams: Sequence[str], pooled: bool
) -> dict[str, tuple[str, ...]]:
    """The settings of which the best counts: plain, a draft model with several draft lengths, and its n-gram drafts."""
    at_home = ("-ngld", "0", "-devd", "none") if pooled else ()
    found: dict[str, tuple[str, ...]] = {"plain": ()}
    if draft:
        with_draft = ("-md", draft, "--spec-type", "draft-simple", *at_home)
        found |= {f"-md, {count} drafts": (*with_draft, "--spec-draft-n-max", str(count)) for count in windows}
    return found | {name: ("--spec-type", name) for name in ngrams}
