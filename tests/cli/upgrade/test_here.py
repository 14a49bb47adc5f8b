"""The last machine of `twd upgrade --all`, the one that asks."""

from pathlib import Path
from typing import cast

import pytest

from tests.cli.deploy.test_steps import NEEDS
from twd.cli.common.context import CliContext
from twd.cli.deploy.wheels import WheelBundle
from twd.cli.upgrade.rolling import Rolling, RollingWish, _tell
from twd.process.home import RunningInstance
from twd.setup.versions.folder import VersionsFolder


def test_one_that_has_the_version_says_so_as_the_others_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "current").symlink_to("versions/0.2.0-new")
    wish = RollingWish(
        (), everywhere=True, wheels=tmp_path, check=False, ssh_user="", settle_s=1.0, keep=2, as_json=False
    )
    instance = RunningInstance(pid=1, born=1.0, started_ms=1, version="0.2.0", node="first")
    bundle = WheelBundle((), "0.2.0-new", NEEDS)
    rolling = Rolling(cast(CliContext, None), wish, bundle, instance, ())
    assert rolling.here(VersionsFolder(tmp_path))
    (report,) = rolling.reports
    assert (report.error, report.lends, report.changed) == ("", "0.2.0", False)
    _tell(rolling)
    assert capsys.readouterr().out.splitlines()[-1] == "first has 0.2.0, nothing changed"
