"""The demo: a small real model, prepared once, that drafts for itself."""

import subprocess
import sys
from pathlib import Path

import msgspec

from twd.cli.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.kit.home import Home, write_private
from twd.kit.settings import Drafter, Model, Settings

MODEL = "smollm2-135m"
PREPARE = (
    "import sys, pathlib; from twd.engine.demo_model import demo_model; print(demo_model(pathlib.Path(sys.argv[1])))"
)


def demo_settings(settings: Settings, model_file: Path) -> Settings:
    """The settings, with the demo's model in place of configured ones."""
    model = Model(path=str(model_file), default=True, ctx_size=2048, parallel=4)
    drafter = Drafter(name=MODEL, path=str(model_file), threads=1)
    return msgspec.structs.replace(settings, models={MODEL: model}, backends={}, drafters=(drafter,))


def prepare_demo(home: Home) -> Path:
    """The demo's model file; the first time it is made, in a process of its own."""
    marker = home.cache / "demo-model"
    if marker.exists() and Path(marker.read_text().strip()).is_file():
        return Path(marker.read_text().strip())
    done = subprocess.run(
        [sys.executable, "-P", "-c", PREPARE, str(home.cache)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no reason given"
        raise CommandError(ExitCode.CANNOT_START, f"the demo's model cannot be made: {reason}")
    path = done.stdout.strip().splitlines()[-1]
    write_private(marker, path.encode())
    return Path(path)
