"""A stage as a separate process, without a bus: it describes itself on stdout and is wired by lines on stdin."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import msgspec

from twd.engine.experts.budget import ExpertWish
from twd.engine.slices.engine import StagePlan
from twd.ring.links import SWITCH_S
from twd.ring.trust import make_identity
from twd.stage.native import SlicePlan, load_slice
from twd.stage.server import LinkRules, StageServer
from twd.wire.base import InstanceId, ModelId, NodeId
from twd.wire.ring import RingWired, StageReady


def main() -> None:
    """One JSON object as the only argument, as `RingLab` writes it: which slice of which file, and how to compute it.

    Each line on stdin is a wiring, or empty; the answer is the number of rows computed so far.
    """
    logging.basicConfig(level=logging.CRITICAL)  # the engine logs every aborted pass as an error
    sys.setswitchinterval(SWITCH_S)
    wanted = json.loads(sys.argv[1])
    loaded = load_slice(_slice(wanted), lambda share, stage: None)
    name = InstanceId(f"stage.bench.{loaded.held.first}")
    server = StageServer(name, loaded.held, loaded.engine, make_identity(name), LinkRules(trusted_lan=wanted["plain"]))
    port = server.listen("127.0.0.1", 0)
    _say(loaded.described(name, NodeId("bench"), "127.0.0.1", port, server.identity.certificate))
    for line in sys.stdin.buffer:
        if line.strip():
            server.wire(msgspec.json.decode(line, type=RingWired))
        _say(server.worker.counters.rows)
    server.close()


def _slice(wanted: dict[str, Any]) -> SlicePlan:
    """What `RingLab` wrote, as a stage takes it."""
    plan = StagePlan(
        path=Path(wanted["source"]),
        first=wanted["first"],
        end=wanted["end"],
        layers=wanted["layers"],
        head=wanted["end"] == wanted["layers"],
        ctx_size=wanted["ctx_size"],
        parallel=wanted["parallel"],
        threads=wanted["threads"],
        own_head=True,
    )
    experts = ExpertWish("on", wanted["moe_memory"]) if wanted["moe_memory"] else ExpertWish()
    return SlicePlan(ModelId("bench"), plan.path, plan, Path(wanted["folder"]), experts=experts)


def _say(what: StageReady | int) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(what) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
