"""Tries what users do with the container: variables, settings, volumes that cannot be written, its end, its health.

.venv/bin/python contrib/benchmarks/deploy/container_trials.py
"""

import json
import signal
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from container import PORT, WAIT_S, ask, first_answer, key_of, new_volume
from image import ROOT, Image, build
from running_image import RunningImage

CANNOT_START: Final = 7
DRAIN_S: Final = 60.0
OWN_KEY: Final = "a-key-of-somebodys-own"
SERVERS: Final = ("TIGHTWAD_TARGET_URL", "TIGHTWAD_DRAFT_URL")
WORD_S: Final = 0.7
SAID: Final = "A word from elsewhere."
STREAM: Final = {
    "model": "default",
    "messages": [{"role": "user", "content": "Tell me a story."}],
    "max_tokens": 200,
    "stream": True,
}


class Elsewhere(BaseHTTPRequestHandler):
    """A server with OpenAI's API that always says the same; a stream takes some seconds."""

    def do_GET(self) -> None:
        """List the one model."""
        card = {"id": "far", "object": "model", "created": 1, "owned_by": "x"}
        self._send({"object": "list", "data": [card]}, "/v1/models")

    def do_POST(self) -> None:
        """Answer whole, or word by word."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        streamed = bool(asked.get("stream"))
        kind, part = ("chat.completion.chunk", "delta") if streamed else ("chat.completion", "message")
        pieces = [f"{word} " for word in SAID.split()] if streamed else [SAID]
        replies = []
        for number, piece in enumerate(pieces, 1):
            said = {"role": "assistant", "content": piece}
            choice = {"index": 0, part: said, "finish_reason": "stop" if number == len(pieces) else None}
            replies.append({"id": "1", "created": 1, "model": "far", "object": kind, "choices": [choice]})
        self._stream(replies) if streamed else self._send(replies[0], "/v1/chat/completions")

    def _send(self, reply: Mapping[str, Any], at: str) -> None:
        if self.path != at:
            self.send_error(404)
            return
        body = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, replies: list[dict[str, Any]]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for reply in replies:
            self.wfile.write(b"data: " + json.dumps(reply).encode() + b"\n\n")
            time.sleep(WORD_S)
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, format: str, *_: object) -> None:
        """Say nothing."""


@contextmanager
def container(
    image: Image, folder: Path, *mounts: str, env: Mapping[str, str] | None = None, elsewhere: tuple[str, ...] = ()
) -> Iterator[RunningImage]:
    """A started container with `folder/volume` as its state; `elsewhere`: the variables that name another server."""
    own = Path(tempfile.mkdtemp(dir=folder))
    with RunningImage(image, own, (f"{folder}/volume:/data", *mounts), env) as running:
        if elsewhere:
            server = ThreadingHTTPServer((running.outside, 0), Elsewhere)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            running.env |= dict.fromkeys(elsewhere, f"http://{running.outside}:{server.server_port}")
        running.start()
        yield running


def answers(running: RunningImage, key: str, said: str = "") -> None:
    """It answers with this key, is healthy, and refuses who has none."""
    url = f"http://{running.inside}:{PORT}"
    try:
        first_answer(url, lambda: key or key_of(running), time.monotonic(), said)
    except SystemExit:
        sys.exit(f"no answer; {running.log}")
    assert (checked := running.run("twd-healthy")).returncode == 0, checked
    assert status(f"{url}/v1/models") == 401


def status(url: str) -> int:
    """The status with which a request without a key is answered."""
    try:
        ask(url, "", None)
    except urllib.error.HTTPError as error:
        return error.code
    return 200


def ends(running: RunningImage) -> None:
    """It ends well when asked to."""
    running.signal(signal.SIGTERM)
    assert running.wait(DRAIN_S) == 0, running.log


def a_folder_that_cannot_be_written(image: Image, folder: Path) -> None:
    """It says what to do, whether the state or the logs are another user's."""
    volume = new_volume(folder)
    for closed, opened in ((volume, volume / "logs"), (volume / "logs", volume)):
        closed.chmod(0o755)
        opened.chmod(0o1777)
        with container(image, folder) as running:
            assert running.wait() == CANNOT_START
            assert "cannot write to /data" in running.log


def a_key_told_once(image: Image, folder: Path) -> None:
    """The drawn key holds after a second start, after a named key was added, and is told in the first log alone."""
    new_volume(folder)
    with container(image, folder, elsewhere=SERVERS) as running:
        answers(running, "", SAID)
        key = key_of(running)
        assert running.log.count(key) == 1
        assert running.run("twd", "key", "add", "somebody").returncode == 0
        ends(running)
    with container(image, folder, elsewhere=SERVERS) as running:
        answers(running, key, SAID)
        assert key not in running.log
        assert "Bearer" not in running.log
        a_stopped_edge(running)
        a_stream_to_its_end(running, key)


def a_stopped_edge(running: RunningImage) -> None:
    """An edge that stands still is found by the health check; it is replaced, and all is well."""
    edge = json.loads(running.run("cat", "/data/run/instance.json").stdout)["processes"]["edge"]
    assert running.run("sh", "-c", f"kill -STOP {edge}").returncode == 0
    checked = running.run("twd-healthy")
    assert checked.returncode == 1, checked
    assert "/v1/models" in checked.stdout, checked
    until = time.monotonic() + WAIT_S
    while running.run("twd-healthy").returncode:
        assert time.monotonic() < until, running.log
        time.sleep(0.5)


def a_stream_to_its_end(running: RunningImage, key: str) -> None:
    """An answer that is being written when the end is asked for is written whole."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    body = json.dumps(STREAM).encode()
    url = f"http://{running.inside}:{PORT}/v1/chat/completions"
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=WAIT_S) as answer:
        assert answer.readline()
        began = time.monotonic()
        ends(running)
        print(f"ended {time.monotonic() - began:.1f} s after it was asked to", flush=True)
        rest = answer.read()
        assert SAID.split()[-1].encode() in rest
        assert rest.strip().endswith(b"[DONE]")


def the_forerunners_variables(image: Image, folder: Path) -> None:
    """A target that a variable names is what answers, with a key of the user's own or one that is drawn."""
    for own in ({"TIGHTWAD_PROXY_TOKEN": OWN_KEY}, {}):
        new_volume(folder)
        with container(image, folder, env=own, elsewhere=SERVERS) as running:
            answers(running, own.get("TIGHTWAD_PROXY_TOKEN", ""), SAID)
            assert ("Bearer" in running.log) is not bool(own)
            ends(running)


def settings_of_ones_own(image: Image, folder: Path) -> None:
    """Settings that cannot be written, with a key of their own, hold."""
    new_volume(folder)
    file = folder / "twd.yaml"
    file.write_text(f"edge: {{token: {OWN_KEY}}}\nbackends:\n  far: {{url: '${{FAR}}', kind: openai}}\n")
    file.chmod(0o444)
    with container(image, folder, f"{file}:/etc/twd/twd.yaml:ro", elsewhere=("FAR",)) as running:
        answers(running, OWN_KEY, SAID)
        assert "Bearer" not in running.log
        assert running.run("sh", "-c", "echo > /etc/twd/twd.yaml").returncode
        ends(running)


TRIALS: Final = (
    a_folder_that_cannot_be_written,
    the_forerunners_variables,
    settings_of_ones_own,
    a_key_told_once,
)


def main() -> None:
    """All of them."""
    image = build(ROOT / "Dockerfile")
    for trial in TRIALS:
        with tempfile.TemporaryDirectory(prefix="twd-container-") as folder:
            trial(image, Path(folder))
        print(f"{trial.__name__.replace('_', ' ')}: as it should be", flush=True)


if __name__ == "__main__":
    main()
