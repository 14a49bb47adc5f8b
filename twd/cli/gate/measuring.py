"""Asks a running system the prompts of a file, for `twd gate calibrate` and `twd gate eval`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from twd.cli.common.context import CliContext
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode

if TYPE_CHECKING:
    from twd.gate.asking import Asker
    from twd.gate.calibration.kept import KeptObservations
    from twd.gate.calibration.lines import Read
    from twd.gate.calibration.profile import Conditions
    from twd.gate.observing import Observed, Task
    from twd.wire.leases.base import ServerFacts


def read_prompts(file: Path) -> "Read":
    """The prompts of a file."""
    from twd.gate.calibration.lines import read_lines

    try:
        return read_lines(file.read_text("utf-8").split("\n"))  # prompts may hold other ends of lines
    except UnicodeDecodeError:
        raise click.UsageError(f"{file} is no UTF-8; give JSON lines") from None


def members_named(command_context: CliContext, how: dict[str, Any]) -> list[str]:
    """Who writes; raises CommandError where nobody does."""
    from twd.gate.members import members_of

    names = list(dict.fromkeys(how["member"])) or members_of(command_context.settings)
    if not names:
        raise CommandError(ExitCode.CONFIG, "nobody writes for a gate: name models under gate.fleet, or give --member")
    return names


def _kept(path: Path | None, task: "Task", conditions: "Conditions") -> "KeptObservations":
    """What was observed with this task before."""
    from dataclasses import replace

    from twd.gate.calibration.kept import KeptObservations

    try:
        return KeptObservations(path, replace(task, step_ms=0.0), conditions.judge_is, conditions.member_is)
    except ValueError as error:
        raise click.UsageError(f"--keep {error}") from None


async def observe_prompts(
    command_context: CliContext,
    read: "Read",
    quiet: bool,
    chosen: "Callable[[list[Conditions]], list[Conditions]]" = lambda them: them,
    **how: Any,
) -> "list[tuple[Conditions, Observed]]":
    """Ask all prompts, for each of the members that are chosen before the first."""
    from twd.gate.asking import Asker
    from twd.gate.observing import observe
    from twd.kit.clock import SystemClock
    from twd.kit.ids import Ids
    from twd.kit.service import ServiceContext

    async with command_context.bus("admin") as bus:
        asker = Asker(ServiceContext(bus=bus, node=command_context.node, clock=SystemClock(), ids=Ids()))
        await asker.start()
        try:
            task, conditions = await _task(command_context, asker, how)
            conditions = chosen(conditions)
            members = {one.member: _kept(how["keep"], task, one) for one in conditions}
            found = await observe(asker, read.lines, task, members, _silent if quiet else _tell)
        finally:
            await asker.stop("done")
    return [(one, found[one.member]) for one in conditions]


async def _task(command_context: CliContext, asker: "Asker", how: dict[str, Any]) -> "tuple[Task, list[Conditions]]":
    from twd.gate.calibration import profile
    from twd.gate.observing import Task
    from twd.wire.job import Sampling
    from twd.wire.leases.speculator import SpeculatorFacts

    settings = command_context.settings
    judge = how["judge"] or settings.gate.verifier or settings.default_model
    members = members_named(command_context, how)
    judges, _, *writers = await _served(asker, judge, how["arbiter"] or judge, *members)
    if not judges.judges:
        raise CommandError(ExitCode.USAGE, f"{judge} cannot score given tokens; only a judge by scores is calibrated")
    sampling = Sampling(temperature=how["temperature"], seed=0)
    step_ms = judges.single_step_ms if isinstance(judges, SpeculatorFacts) else 0.0
    task = Task(judge, sampling, how["max_tokens"], how["error"], how["arbiter"], step_ms)
    return task, [
        profile.Conditions(
            judge=judge,
            member=name,
            judge_is=profile.identity(judges),
            member_is=profile.identity(writes),
            sampling=profile.sampling_hash(sampling),
            hold=str(settings.gate.hold),
        )
        for name, writes in zip(members, writers, strict=True)
    ]


async def _served(asker: "Asker", *names: str) -> "list[ServerFacts]":
    """What serves these models now; raises CommandError where one of them is not served."""
    from twd.wire.leases.base import ServerFacts
    from twd.wire.service import told_by

    served = {str(facts.model): facts for _, facts in told_by(await asker.leases(), ServerFacts) if facts.model}
    for name in names:
        if name not in served:
            raise CommandError(
                ExitCode.NOT_FOUND, f"nobody serves {name!r} now; there are: {', '.join(served) or 'none'}"
            )
    return [served[name] for name in names]


def _silent(number: int, total: int) -> None:
    """JSON alone goes to stdout."""


def _tell(number: int, total: int) -> None:
    if number % 20 == 0 or number == total:
        click.echo(f"{number}/{total}")
