"""A package so small that it is sent and installed in a moment: it joins, starts and ends as twd does, and no more."""

import hashlib
import zipfile
from pathlib import Path

from twd.cli.deploy.looking import BundleNeeds
from twd.cli.deploy.unpack import digest
from twd.cli.deploy.wheels import WheelBundle, needs_of

MAIN = """
import os, pathlib, sys

home = pathlib.Path(os.environ["TWD_HOME"])
verb, *words = sys.argv[1:]
if verb == "join":
    token = sys.stdin.read().strip()
    if not token.startswith("twd1_"):
        sys.exit("the join token cannot be used")
    (home / "keys").mkdir(exist_ok=True)
    (home / "keys" / "agent.nk").write_text("a key of its own")
    node = words[words.index("--node") + 1]
    draft = home / "joined.json.new"
    draft.write_text('{"node": "%s", "url": "tls://first:4222", "fingerprint": "%s"}' % (node, "ab" * 32))
    draft.replace(home / "joined.json")
elif verb == "up":
    (home / "running").touch()
elif verb == "down":
    (home / "running").unlink(missing_ok=True)
elif verb == "upgrade":
    pass  # nothing is removed
else:
    sys.exit(f"there is no {verb}")
"""
FILLER_BYTES = 300_000


def small_bundle(folder: Path, version: str) -> WheelBundle:
    """One wheel, with enough in it that a connection can break while it is sent."""
    files = {
        "twd/__init__.py": b"",
        "twd/__main__.py": MAIN.encode(),
        "twd/filler": hashlib.shake_128(version.encode()).digest(FILLER_BYTES),
    }
    record = f"twd-{version}.dist-info/RECORD"
    wheel = folder / f"twd-{version}-py3-none-any.whl"
    rows = [f"{name},{digest(data)},{len(data)}\n" for name, data in files.items()]
    with zipfile.ZipFile(wheel, "w") as made:
        for name, data in files.items():
            made.writestr(name, data)
        made.writestr(record, "".join([*rows, f"{record},,\n"]))
    needs: BundleNeeds = needs_of([wheel.name], wheel.stat().st_size)
    return WheelBundle((wheel,), f"{version}-{hashlib.sha256(wheel.read_bytes()).hexdigest()[:12]}", needs)
