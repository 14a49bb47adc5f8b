"""start, stop, swap, load, reclaim and tune at the command line: what they refuse, and with which exit code."""

import asyncio
import os
from pathlib import Path

import pytest

from tests.cli.running import Installed
from tests.supervisor.test_service import ctx
from twd.bus.memory.bus import MemoryBroker
from twd.cli.models import command as models
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.kit.tasks import TaskGroup
from twd.process.process_table import ProcessTable
from twd.supervisor.service import SupervisorService
from twd.wire.base import InstanceId
from twd.wire.life import ChangeStep, ChangeTold

pytestmark = pytest.mark.nats


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("swap", "big"), ExitCode.NOTHING_RUNS, "twd up"),
        (("swap",), ExitCode.USAGE, "MODEL"),
        (("stop",), ExitCode.OK, "nothing runs"),
        (("stop", "--json"), ExitCode.OK, '"done": true'),
        (("reclaim",), ExitCode.NOTHING_RUNS, "twd up"),
        (("reclaim", "--file", "/no/such.gguf"), ExitCode.NOT_FOUND, "no file"),
        (("load", "nothing"), ExitCode.NOT_FOUND, "configured are none"),
        (("load", "/no/such.gguf"), ExitCode.NOT_FOUND, "no file"),
        (("load", "~nobody-of-this-name/m.gguf"), ExitCode.NOT_FOUND, "no file"),
        (("tune", "nothing"), ExitCode.NOT_FOUND, "configured are none"),
        (("up", "--model", "nothing"), ExitCode.NOT_FOUND, "no model 'nothing'"),
        (("swap", ""), ExitCode.USAGE, "1 to 4096 characters"),
        (("swap", "x/" * 2500), ExitCode.NOT_FOUND, "cannot be looked for"),
        (("swap", "x" * 5000, "--node", "a"), ExitCode.USAGE, "1 to 4096 characters"),
        (("swap", os.fsdecode(b"caf\xe9.gguf")), ExitCode.USAGE, "is no UTF-8"),
    ],
)
def test_without_anything_that_runs(
    installed: Installed, arguments: tuple[str, ...], code: ExitCode, words: str
) -> None:
    done = installed.twd(*arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_is_forgotten(installed: Installed, tmp_path: Path) -> None:
    file = tmp_path / "weights.gguf"
    file.write_bytes(bytes(1 << 20))
    done = installed.twd("reclaim", "--file", str(file), "--json")
    assert done.returncode == 0, done.stderr
    assert '"cached_before"' in done.stdout


def test_tuning_without_a_model(installed: Installed) -> None:
    done = installed.twd("tune")
    assert done.returncode == 0, done.stderr
    assert "threads" in done.stdout
    assert '"proposals"' in installed.twd("tune", "--json").stdout


async def test_a_change_whose_supervisor_is_gone_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "LOOK_S", 0.001)
    follower = models.ProgressFollower(MemoryBroker().connect("cli"), quiet=True)
    with pytest.raises(CommandError, match="is gone") as gone:
        await follower.follow("c1", InstanceId("supervisor.desk.x"))
    assert gone.value.exit_code is ExitCode.NOTHING_RUNS


async def test_one_whose_supervisor_is_there_is_followed_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "LOOK_S", 0.001)
    looked, broker, tasks = asyncio.Event(), MemoryBroker(), TaskGroup("test", lambda *_: None)
    supervisor_service = SupervisorService(ctx(broker, 1), ProcessTable(), lambda: None)
    await supervisor_service.start()
    follower = models.ProgressFollower(broker.connect("cli"), quiet=True)
    await follower.listen()
    is_there = follower._is_there

    async def look(instance: InstanceId) -> bool:
        looked.set()
        return await is_there(instance)

    monkeypatch.setattr(follower, "_is_there", look)
    following = tasks.start("follow", follower.follow("c1", supervisor_service.instance))
    for _ in range(2 * models.MISSES_MAX):
        await asyncio.wait_for(looked.wait(), 5.0)
        looked.clear()
    supervisor_service.emit(ChangeTold(node=supervisor_service.ctx.node, change="c1", step=ChangeStep.DONE))
    assert (await asyncio.wait_for(following, 5.0)).step is ChangeStep.DONE
    await supervisor_service.stop()


@pytest.mark.thorough
@pytest.mark.slow
def test_a_house_without_models(installed: Installed) -> None:
    (installed.home.parent / "twd.yaml").write_text("models: {gone: {path: gone.gguf}}\nagent: {port: 0}\n")
    installed.up("--no-models")
    for arguments, code, words in (
        (("swap", "nothing"), ExitCode.NOT_FOUND, "configured are gone"),
        (("start",), ExitCode.NOT_FOUND, "no file"),
        (("start", "-m", "/" + "folder/" * 50 + "m.gguf"), ExitCode.NOT_FOUND, "no file"),
        (("start", "--node", "elsewhere"), ExitCode.NOTHING_RUNS, "no supervisor answers on machine 'elsewhere'"),
        (("stop", "gone"), ExitCode.NOT_FOUND, "served are: none"),
        (("stop",), ExitCode.OK, "no model is served"),
        (("reclaim",), ExitCode.NOT_FOUND, "served: none"),
    ):
        done = installed.twd(*arguments)
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        assert words in done.stdout + done.stderr, (arguments, done.stdout, done.stderr)
    assert installed.twd("down").returncode == 0
