"""What runs here during a change of versions: a service of the system, or what `twd up -d` started."""

import http.client
import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import psutil

from twd.edge.http.handover import NEXT, OFFERED
from twd.net.handed_socket import SocketOffer, take_socket
from twd.process.home import RunningInstance, StateFolder
from twd.settings.model import Settings
from twd.setup.units.systemd_manager import SystemdManager
from twd.setup.versions.folder import VersionProblem, VersionsFolder
from twd.wire.reading import NONSENSE

ANSWER_S: Final = 10.0
DRAIN_S: Final = 90.0
LOOK_S: Final = 0.2
LEFT_OUT: Final = ("--report", "-d", "--detach", "--json")


class SystemTime:
    """The machine's own time."""

    def now(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


class _InstanceHouse:
    """Looks at what holds a state folder."""

    def __init__(self, home: StateFolder) -> None:
        self._home = home
        self._door: SocketOffer | None = None
        """The API's port, kept open while versions change."""
        self._well: tuple[int, dict[str, int]] = (0, {})
        """The processes when all of them worked."""

    def runs(self) -> bool:
        return self._home.running() is not None

    def trouble(self) -> str:
        """Whether the same processes still run, and questions are answered."""
        instance = self._home.running()
        if instance is None:
            return "it has ended"
        before = self._well
        self._well = (instance.pid, instance.processes)
        if before[0] not in (0, instance.pid):
            return "its supervisor was started again"
        gone = [name for name, pid in before[1].items() if instance.processes.get(name) != pid]
        if gone:
            return f"{', '.join(sorted(gone))} ended, and was started again"
        return unanswered(instance, settings_of(self._home))

    def wait_ready(self, deadline_s: float) -> None:
        """Wait until all works; raises VersionProblem when it takes too long."""
        give_up = time.monotonic() + deadline_s
        self._well = (0, {})
        while time.monotonic() < give_up:
            instance = self._home.running()
            if instance is not None and instance.ready and all(instance.processes.values()):
                return
            time.sleep(LOOK_S)
        raise VersionProblem(f"it was not ready within {deadline_s:g} s")

    def keep_door(self) -> None:
        """Keep the port of the API open, so that who connects from now on waits for the next version."""
        port = take_socket(self._home.run / OFFERED)
        if port is None:
            return
        if self._door is not None:  # it is kept already; the edge that ends knows it now, too
            port.close()
            return
        door = SocketOffer(self._home.run / NEXT, port)
        try:
            door.open()
        except OSError:  # the port is closed for some seconds, then
            door.close()
            return
        self._door = door

    def release(self) -> None:
        """Keep the port no longer: the edge that runs has it."""
        if self._door is not None:
            self._door.close()
            self._door = None

    def wait_gone(self) -> None:
        give_up = time.monotonic() + DRAIN_S
        while self._home.held():
            if time.monotonic() > give_up:
                raise VersionProblem(f"it did not end within {DRAIN_S:g} s; `twd down --timeout 0` kills it")
            time.sleep(LOOK_S)


class DetachedHouse(_InstanceHouse):
    """What `twd up -d` started: it is started again with the same arguments and the same environment."""

    def __init__(self, home: StateFolder, folder: VersionsFolder) -> None:
        super().__init__(home)
        self._folder = folder
        instance = home.running()
        if instance is not None and (instance.in_terminal or not instance.guard):
            text = f"twd runs in a terminal (pid {instance.pid}), where it cannot be started again"
            raise VersionProblem(f"{text}: end it there, or start it by `twd up -d` or as a service")
        self._arguments, self._environment = started_by(instance) if instance else (("up",), {})

    def stop(self) -> None:
        """Drain, as `twd down` does."""
        if self._home.held():
            self.keep_door()
            self._twd("down", deadline_s=DRAIN_S)
        self.wait_gone()

    def start(self, deadline_s: float) -> None:
        """As it was started before, by way of the link."""
        self._twd(*self._arguments, "-d", f"--timeout={deadline_s:g}", deadline_s=deadline_s + DRAIN_S)
        self.wait_ready(deadline_s)

    def _twd(self, *arguments: str, deadline_s: float) -> None:
        try:
            done = subprocess.run(
                [str(self._folder.program()), *arguments],
                env=self._environment or None,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=deadline_s,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise VersionProblem(f"`twd {' '.join(arguments)}` does not work: {error}") from None
        if done.returncode:
            words = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
            raise VersionProblem(f"`twd {' '.join(arguments)}` failed: {words[-1][:300]}")


class ServiceHouse(_InstanceHouse):
    """A service of the system, which starts by way of the link."""

    def __init__(self, home: StateFolder, manager: SystemdManager, unit: str) -> None:
        super().__init__(home)
        self._manager = manager
        self._unit = unit

    def stop(self) -> None:
        """Drain, as the service manager does."""
        self.keep_door()
        self._manager.machine.must(*self._manager.systemctl, "stop", self._unit)
        self.wait_gone()

    def start(self, deadline_s: float) -> None:
        """The service manager waits until it is ready."""
        done = self._manager.machine.run((*self._manager.systemctl, "start", self._unit))
        if done.code:
            raise VersionProblem(f"{self._unit} does not start: {done.text[-300:]}")
        self.wait_ready(deadline_s)


def started_by(instance: RunningInstance) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """Return the arguments and the environment with which a supervisor was started."""
    try:
        process = psutil.Process(instance.pid)
        return up_arguments(process.cmdline()), process.environ()
    except psutil.Error as error:
        raise VersionProblem(f"nobody can tell how pid {instance.pid} was started: {error}") from None


def up_arguments(command: Sequence[str]) -> tuple[str, ...]:
    """Return what stood behind the program, without what concerns its terminal."""
    begin = next((place for place, word in enumerate(command) if word == "twd" or word.endswith("/twd")), -1)
    return tuple(word for word in command[begin + 1 :] if word not in LEFT_OUT) or ("up",)


def settings_of(home: StateFolder) -> Settings | None:
    """Return the settings of what runs here."""
    try:
        return msgspec.json.decode(home.settings_file.read_bytes(), type=Settings)
    except (OSError, *NONSENSE):
        return None


def unanswered(instance: RunningInstance, settings: Settings | None) -> str:
    """Ask a question, and return why it is not answered; without a key that we know, ask whether it would be."""
    api = instance.addresses.get("api", "")
    if not api or settings is None:
        return ""
    served = settings.default_model
    try:
        status = _ask(api, "GET", "/readyz", None, "")
        if status != http.client.OK and served:
            return f"it says that it cannot answer (status {status})"
        if not served or not (settings.edge.token or (instance_is_open(settings) and status == http.client.OK)):
            return ""
        question = {"model": "default", "prompt": "1, 2, 3,", "max_tokens": 1}
        status = _ask(api, "POST", "/v1/completions", question, settings.edge.token)
    except (OSError, http.client.HTTPException) as error:
        return f"its API does not answer: {error}"
    return "" if status == http.client.OK else f"a question is answered with status {status}"


def instance_is_open(settings: Settings) -> bool:
    """Whether questions need no key."""
    return settings.edge.host in ("127.0.0.1", "localhost", "::1") and not settings.edge.token


def _ask(api: str, method: str, path: str, body: Any, key: str) -> int:
    import ssl

    place = urlsplit(api)
    tls = ssl._create_unverified_context() if place.scheme == "https" else None  # our own process on this machine
    connection: http.client.HTTPConnection
    if tls is not None:
        connection = http.client.HTTPSConnection(place.netloc, timeout=ANSWER_S, context=tls)
    else:
        connection = http.client.HTTPConnection(place.netloc, timeout=ANSWER_S)
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        return connection.getresponse().status
    finally:
        connection.close()
