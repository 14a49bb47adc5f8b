"""`twd moe bench`, as a user gives it."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.engine.experts.unlike import write_unlike
from twd.cli.app import run
from twd.engine.experts.disk import disk_speed
from twd.kit.exit_codes import ExitCode

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


class Answers(BaseHTTPRequestHandler):
    """An OpenAI-compatible server that says the same two words to everybody."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for word in ("a", "b"):
            self._event({"choices": [{"delta": {"content": word}}]})
        self._event({"choices": [], "usage": {"completion_tokens": 2}})

    def _event(self, told: object) -> None:
        self.wfile.write(f"data: {json.dumps(told)}\n\n".encode())

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as found:
        found.asked = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def test_any_server_is_asked(server: ThreadingHTTPServer, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "p.txt").write_text("one\ntwo\n")
    url = f"http://127.0.0.1:{server.server_port}/"
    told = ["--target-url", url, "--target-model", "big", "--prompts", "p.txt", "--warmup", "1", "--json", "out.json"]
    assert run(["moe", "bench", *told, "--live", "--max-tokens", "7"]) == ExitCode.OK
    shown = capsys.readouterr()
    assert "2/2: first token after" in shown.err
    assert "as served" in shown.out
    report = json.loads((tmp_path / "out.json").read_text())
    assert [(one["answers"], one["tokens"]) for one in report["runs"]] == [(2, 4)]
    asked = server.asked  # type: ignore[attr-defined]
    assert [one["messages"][0]["content"] for one in asked] == ["one", "one", "two"]
    assert {(one["model"], one["max_tokens"]) for one in asked} == {("big", 7)}


def test_options_that_make_no_sense_are_refused(tmp_path: Path, capsys: Capture) -> None:
    assert run(["moe", "bench", "--target-url", "http://127.0.0.1:1", "--memory", "5"]) == ExitCode.USAGE
    assert run(["moe", "bench", "--target-model", "none", "--memory", "5"]) == ExitCode.NOT_FOUND
    assert "there is no model 'none' in the settings" in capsys.readouterr().err
    assert run(["moe", "bench", "--target-model", "gone.gguf"]) == ExitCode.UNHEALTHY
    assert "gone.gguf: no such file" in capsys.readouterr().err


def test_a_disk_is_read_as_experts_are(tmp_path: Path) -> None:
    assert disk_speed(write_unlike(tmp_path / "m.gguf")) > 1e6
    assert disk_speed(write_unlike(tmp_path / "small.gguf", layers=1, experts=2)) > 0
