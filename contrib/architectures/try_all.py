"""Try every architecture of which there is a recipe for a tiny model; write `twd/gguf_tools/tried.py` and
`docs/models.md`.

    python -m contrib.architectures.try_all            # all; a few minutes
    python -m contrib.architectures.try_all --new      # those that are not in the table yet
    python -m contrib.architectures.try_all NAME       # one of them, as JSON

Each one is tried in a process of its own, because llama.cpp ends the process where it cannot go on.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from contrib.architectures import page
from contrib.architectures.trial import as_json, try_one
from tests.engine.slices.recipes import names, recipe
from twd.engine.library import version
from twd.gguf_tools.abilities import TrialResult, Undoing
from twd.gguf_tools.tried import TRIED

_ROOT = Path(__file__).resolve().parents[2]
_SECONDS = 120.0


def main() -> None:
    """Try one architecture, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", help="a recipe; without it, all")
    parser.add_argument("--new", action="store_true", help="only what is not in the table yet")
    asked = parser.parse_args()
    if asked.name:
        print(json.dumps(as_json(try_one(asked.name))))
        return
    found: dict[str, TrialResult] = dict(TRIED) if asked.new else {}
    for one in names():
        architecture = recipe(one).architecture
        if architecture not in found and (result := _in_a_process(one)) is not None:
            found[architecture] = result
    (_ROOT / "twd/gguf_tools/tried.py").write_text(page.module(found, version()), "utf-8")
    subprocess.run([sys.executable, "-c", _WRITE_PAGE], cwd=_ROOT, check=True)  # with the new table


_WRITE_PAGE = "from pathlib import Path; from contrib.architectures.page import page; " + (
    "Path('docs/models.md').write_text(page(), 'utf-8')"
)


def _in_a_process(name: str) -> TrialResult | None:
    command = [sys.executable, "-m", "contrib.architectures.try_all", name]
    try:
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=_SECONDS, check=False)
        told = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        print(f"{name}: no result", file=sys.stderr)
        return None
    found = TrialResult(**{**told, "undoing": Undoing(told["undoing"])})
    print(f"{name}: {found}", file=sys.stderr)
    return found


if __name__ == "__main__":
    main()
