"""The demo: a real model, a faster copy of it as a drafter, both prepared once; and a first measurement."""

import mmap
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from twd.engine.experts.layout import expert_layout
from twd.kit.clock import SystemClock
from twd.kit.connect import connect
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.kit.ids import Ids
from twd.kit.service import ServiceContext
from twd.private_file import write_private
from twd.process.home import StateFolder
from twd.settings.model import DrafterConfig, ModelConfig, Settings
from twd.supervisor.own_command import own_command
from twd.wire.base import NodeId
from twd.wire.failures import TwdError

MODEL = "smollm2-135m"
TARGET, DRAFT = "f32", "q8_0"
"""The slow weights play the target, the fast ones the draft model; both are exact."""
PREPARE = (
    "import sys, pathlib; from twd.engine.demo_model import demo_model; "
    "print(*(demo_model(pathlib.Path(sys.argv[1]), kind) for kind in sys.argv[2:]), sep=chr(10))"
)
PREPARE_MIXTURE = (
    "import sys, pathlib; from twd.engine.demo_model import demo_model; from twd.moe.upcycle import upcycle; "
    "dense = demo_model(pathlib.Path(sys.argv[1]), 'q8_0'); mixture = dense.with_name(dense.stem + '-8-experts.gguf'); "
    "print(mixture if mixture.exists() else upcycle(dense, mixture), dense, sep=chr(10))"
)
MIXTURE_SHARE = 0.6
"""How much of the mixture's file memory holds, if nothing else is asked for."""
MEASURED_KINDS = ("factual", "code", "creative")
"""Kinds of questions whose answers are not in the prompt: text copied from the prompt would favour drafts."""
MEASURED_TOKENS = 64
GAIN = 1.05
"""A smaller ratio of the rates with and without drafts does not count as a gain."""


def demo_settings(settings: Settings, target: Path, draft: Path) -> Settings:
    """Return the settings with the demo's models instead of the configured ones."""
    model = ModelConfig(path=str(target), default=True, ctx_size=2048, parallel=4)
    drafter = DrafterConfig(name=f"{MODEL}-quick", path=str(draft))
    return msgspec.structs.replace(settings, models={MODEL: model}, backends={}, drafters=(drafter,))


def mixture_settings(settings: Settings, target: Path, draft: Path, memory_mib: int, machines: int = 1) -> Settings:
    """Return the settings with the demo's mixture, which gets less memory than it needs.

    `memory_mib` is for all weights that one of the machines holds; 0: all of them together have 60 % of the file.
    """
    experts = _expert_bytes(target, memory_mib, machines)
    whole = demo_settings(settings, target, draft)
    model = msgspec.structs.replace(whole.models[MODEL], moe_stream="on", moe_memory_gb=experts / 2**30)
    return msgspec.structs.replace(whole, models={MODEL: model})


def _expert_bytes(target: Path, memory_mib: int, machines: int) -> int:
    """Return the memory of one machine for experts; raises CommandError if it cannot hold those of one layer."""
    layout = expert_layout(target)
    assert layout is not None, "the demo's mixture has experts"
    dense = layout.dense_bytes // machines
    size = memory_mib << 20 or int(MIXTURE_SHARE * target.stat().st_size) // machines
    experts = max(size - dense, 0)
    least = layout.layer_bytes(mmap.PAGESIZE)
    if experts < least:
        needed = -(-(dense + least) // 2**20)
        raise CommandError(
            ExitCode.USAGE, f"--memory {memory_mib} is too little for this mixture; take {needed} or more"
        )
    return experts


def prepare_demo(home: StateFolder, *, mixture: bool = False) -> tuple[Path, Path]:
    """Return the demo's target file and draft file; the first time, a process of its own makes them."""
    marker = home.cache / ("demo-mixture" if mixture else "demo-models")
    made = [Path(line) for line in marker.read_text().splitlines()] if marker.exists() else []
    if len(made) != 2 or not all(path.is_file() for path in made):
        made = _make([PREPARE_MIXTURE, str(home.cache)] if mixture else [PREPARE, str(home.cache), TARGET, DRAFT])
        write_private(marker, "\n".join(str(path) for path in made).encode())
    return made[0], made[1]


def _make(arguments: list[str]) -> list[Path]:
    command = [sys.executable, "-P", "-c", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no reason given"
        told = reason.rpartition("TwdError: ")[2]
        raise CommandError(ExitCode.CANNOT_START, f"the demo's model cannot be made: {told}")
    return [Path(line) for line in done.stdout.strip().splitlines()[-2:]]


async def tell_measured(settings: Settings, node: NodeId, tell: Callable[[str], None]) -> None:
    """Measure what drafts gain here, and tell the result, or why there is none."""
    tell("measuring what drafts bring ...")
    try:
        tell(await _measure(settings, node))
    except TwdError as error:
        tell(f"the measurement did not succeed: {error}")


async def _measure(settings: Settings, node: NodeId) -> str:
    """Measure what drafts gain here, with the same questions without and with them; return the result in one line."""
    from twd.bench.client import BenchClient
    from twd.bench.prompts import PROMPTS
    from twd.bench.report import summarize
    from twd.bench.session import BenchPlan, find_speculator, run_bench

    bus = await connect(settings, "admin", node)
    client = BenchClient(ServiceContext(bus=bus, node=node, clock=SystemClock(), ids=Ids()))
    try:
        await client.start()
        asked = [next(prompt for prompt in PROMPTS if prompt.kind == kind) for kind in MEASURED_KINDS]
        plan = BenchPlan(asked, MEASURED_TOKENS)
        result = await run_bench(client, await find_speculator(client, MODEL), plan, lambda *_: None)
    finally:
        await client.stop("measured")
        await bus.close()
    whole = summarize(result.pairs)[-1]
    same = "the same text" if whole.equal == whole.answers else "DIFFERENT TEXT"
    allowed = max((one.best for one in result.ceilings), default=0.0)
    return (
        f"measured on {whole.answers} questions: {whole.plain_rate:.0f} tok/s alone, {whole.drafted_rate:.0f} tok/s "
        f"with drafts ({whole.ratio:.2f}x), {same}; {advice(whole.ratio, whole.acceptance, allowed)}"
    )


def advice(ratio: float, acceptance: float, allowed: float) -> str:
    """Return what to do next; where drafts gain nothing, the likely cause and the command that tells more.

    `allowed`: the speed-up that the costs of passes and drafts permit; 0 where no draft was checked.
    """
    command = own_command()
    if ratio >= GAIN:
        return f"`{command} bench` measures more"
    if not allowed:
        return f"no draft was checked: `{command} doctor` tells whether the drafter is there, and who shares its cores"
    if allowed < GAIN:
        return f"guesses cost too much here, and {acceptance:.0%} were right: `{command} bench` tells what each costs"
    return (
        f"costs allow {allowed:.1f}x, so likely something else uses the same cores: `{command} doctor` tells who, "
        f"`{command} bench` measures again"
    )
