"""Shows that the tests' hub is one: `huggingface_hub` downloads from it. With --speed: `twd pull` beside `hf download`.

Run it from the repository's folder; the first run installs huggingface_hub into an environment of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.models.hubs import Hub, Repository, hub_in_thread, sha256

PLACE = Path(os.environ.get("TWD_HUBS_CACHE", Path.home() / ".cache/twd/hubs"))
CLIENT = Path(__file__).with_name("huggingface_client.py")
MIB = 1 << 20


def environment() -> Path:
    """The environment with huggingface_hub."""
    if not (PLACE / "bin/hf").exists():
        venv.create(PLACE, with_pip=True)
        subprocess.run([PLACE / "bin/python", "-m", "pip", "install", "-q", "huggingface_hub"], check=True)
    return PLACE


def variables(url: str, home: str) -> dict[str, str]:
    """The variables of a client of this hub that has nothing yet."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TWD_"))}
    return {**kept, "HF_ENDPOINT": url, "HF_HOME": home, "TWD_HOME": home, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def check_interop() -> None:
    """The client of others finds, downloads and is refused as on the real hub."""
    files = {"README.md": b"# words", "m-Q4_K_M.gguf": b"GGUF" + os.urandom(3 * MIB)}
    files |= {f"Q8_0/m-0000{number}-of-00002.gguf": b"GGUF" + os.urandom(MIB) for number in (1, 2)}
    hub = Hub({"org/model": Repository(files, plain=("README.md",)), "org/gated": Repository(files, gated=True)})
    with hub_in_thread(hub) as url, tempfile.TemporaryDirectory() as home:
        arguments = [environment() / "bin/python", CLIENT, "org/model", "m-Q4_K_M.gguf", "Q8_0/*", "org/gated"]
        done = subprocess.run(arguments, env=variables(url, home), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["commit"] == hub.repositories["org/model"].commit
    assert told["downloaded"] == told["blob"] == sha256(files["m-Q4_K_M.gguf"])
    assert told["snapshot"] == {path: sha256(data) for path, data in files.items() if path.endswith(".gguf")}
    assert {path: told["tree"][path] for path in told["snapshot"]} == told["snapshot"]
    assert all(told["refused"]), told["refused"]
    assert not hub.tokens_at_files
    print(f"huggingface_hub {told['version']} lists, downloads and is refused as at the real hub")


def timed(command: list[str | Path], env: dict[str, str]) -> float:
    """Seconds of a command that must succeed."""
    began = time.monotonic()
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - began


def measure(mib: int, mb_s: float, rounds: int) -> None:
    """Both commands in turn, at a hub that limits each connection."""
    data = {"m-Q4_K_M.gguf": b"GGUF" + os.urandom(mib * MIB)}
    hub = Hub({"org/model": Repository(data)}, bytes_s=mb_s * 1e6)
    ratios = []
    with hub_in_thread(hub) as url:
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
                hf = [environment() / "bin/hf", "download", "org/model", "m-Q4_K_M.gguf"]
                theirs = timed(hf, variables(url, one))
                pull = [sys.executable, "-m", "twd", "pull", "org/model:Q4_K_M", "--dir", other]
                ours = timed(pull, variables(url, other))
            ratios.append(theirs / ours)
            print(f"{mib} MiB at {mb_s:g} MB/s a connection: hf download {theirs:.1f} s, twd pull {ours:.1f} s")
    print(f"least ratio of {rounds}: {min(ratios):.1f}")


def main() -> None:
    """One of both, or both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speed", action="store_true", help="measure, too")
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--mb-s", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    check_interop()
    if given.speed:
        measure(given.mib, given.mb_s, given.rounds)


main()
