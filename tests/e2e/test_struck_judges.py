"""Members, judge, gate and racer are killed and stopped while they answer: all texts stay whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.model, pytest.mark.nats, pytest.mark.thorough]
ROOT = Path(__file__).resolve().parents[2]


def test_one_blow_of_each_kind(tmp_path: Path) -> None:
    environment = {**os.environ, "TWD_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    script = (sys.executable, str(ROOT / "contrib" / "chaos" / "judges.py"), "--strikes", "8", "--within", "60")
    done = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 of 8 answers whole" in done.stdout
