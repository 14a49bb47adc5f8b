"""`twd distribute` with a real sshd on loopback: by rsync, by scp, and by a pull there."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.tiny_models import write_llama
from tests.waiting import wait_until
from twd.cli.app import run
from twd.kit.exit_codes import ExitCode
from twd.net.ports import free_port

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
BIN = Path(sys.executable).parent


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TWD_HOME", str(tmp_path / "home"))
    folder = tmp_path / "here"
    folder.mkdir()
    return write_llama(folder / "tiny model.gguf")


def test_a_dry_run_asks_nobody_and_shows_no_token(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = ["-t", "nowhere.invalid:~/my models", "-t", "me@other.invalid:/x;y"]
    asked = ["distribute", str(model), *there, "--method", "swarm", "--token", "geheim", "--dry-run"]
    assert run(asked) == ExitCode.OK
    told = capsys.readouterr().out
    assert "nowhere.invalid" in told
    assert "me@other.invalid" in told
    assert "geheim" not in told
    assert run(["distribute", str(model), *there, "--dry-run"]) == ExitCode.OK
    assert capsys.readouterr().out.startswith("rsync " if shutil.which("rsync") else "scp ")


def test_nobody_to_give_it_to_is_told(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["distribute", str(model)]) == ExitCode.OK
    assert "-t HOST:PATH" in capsys.readouterr().err
    assert run(["distribute", str(model), "-t", "box"]) == ExitCode.USAGE


def connects(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


class Server:
    """An sshd for this user alone, and the options with which ssh finds it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.home = folder, free_port(), folder / "there"
        self.home.mkdir()
        for name in ("host", "user"):
            made = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(made, check=True, capture_output=True)
        key = (folder / "host.pub").read_text().split()
        (folder / "known").write_text(f"[127.0.0.1]:{self.port} {key[0]} {key[1]}\n")
        self.path = os.environ["PATH"]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Let it listen."""
        config = self.folder / "config"
        environment = f"PATH={BIN}:{self.path} TWD_HOME={self.home}/state"
        lines = [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.folder}/host",
            f"AuthorizedKeysFile {self.folder}/user.pub",
            f"SetEnv {environment}",
            "PidFile none",
            "UsePAM no",
            "StrictModes no",
            "PermitRootLogin yes",
            "Subsystem sftp internal-sftp",
        ]
        config.write_text("\n".join(lines) + "\n")
        assert SSHD is not None
        self.process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stderr=subprocess.PIPE)
        wait_until(lambda: connects(self.port), "sshd listens")

    @property
    def options(self) -> list[str]:
        """For `twd distribute`."""
        told = {
            "Port": self.port,
            "IdentityFile": self.folder / "user",
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": self.folder / "known",
        }
        return [part for name, value in told.items() for part in ("--ssh-option", f"{name}={value}")]

    def end(self) -> None:
        """Let it end."""
        if self.process is not None:
            self.process.terminate()
            self.process.communicate(timeout=20)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    if SSHD is None or shutil.which("ssh") is None:
        pytest.skip("openssh-server is not installed")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    made = Server(tmp_path)
    made.start()
    yield made
    made.end()


@pytest.mark.slow
def test_each_method_brings_the_file(
    model: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for method in (*(["rsync"] if shutil.which("rsync") else []), "swarm", "scp"):
        folder = server.home / f"by {method}; $(touch {server.home}/wrong)".replace("/", "_")
        folder.mkdir()
        if method == "scp":
            monkeypatch.setattr("twd.cli.distribute.over_ssh.shutil.which", lambda name: None)
        how = "rsync" if method == "scp" else method
        there = ["-t", f"127.0.0.1:{folder}", "--method", how, *server.options]
        done = run(["distribute", str(model), *there, "--token", "geheim"])
        told = capsys.readouterr()
        assert done == ExitCode.OK, told.err
        assert f"{method}, " in told.out
        assert "geheim" not in told.out + told.err
        assert (folder / model.name).read_bytes() == model.read_bytes()
    assert not [path for path in server.home.rglob("*wrong") if path.is_file()]


@pytest.mark.slow
def test_one_that_fails_does_not_end_the_others(
    model: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    there = ["-t", f"127.0.0.1:{server.home}", "-t", f"127.0.0.1:{server.home}/no/such/folder/x"]
    assert run(["distribute", str(model), *there, "--method", "rsync", *server.options]) == ExitCode.UNHEALTHY
    assert (server.home / model.name).is_file()
    told = capsys.readouterr()
    assert "No such file or directory" in told.err or "the folder is not there" in told.err
    assert run(["distribute", str(model), "-t", "127.0.0.1:/tmp", *server.options[:2]]) == ExitCode.UNHEALTHY
    assert "verification failed" in capsys.readouterr().err
