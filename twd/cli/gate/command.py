"""`twd gate`: start it, look at it, and calibrate it on one's own prompts."""

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from twd.cli.common.context import CliContext
from twd.cli.gate.calibrating import calibrate, evaluate
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode

if TYPE_CHECKING:
    from twd.wire.leases.gate import AuditFacts, GateFacts


@click.group()
def gate() -> None:
    """The quality gate: others write whole answers, the target judges them."""


@gate.command()
@click.pass_context
def start(ctx: click.Context) -> ExitCode:
    """Run the gate in this terminal, until a signal ends it; `twd up` starts it, too, where somebody writes for it."""
    from twd.cli.run import run_command

    done: ExitCode = ctx.invoke(run_command, service="gate")
    return done


@gate.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_obj
def status(command_context: CliContext, as_json: bool) -> ExitCode:
    """What the gate did since it started, who writes, and whose answers may deviate."""
    import msgspec

    facts = asyncio.run(_gate_facts(command_context))
    if facts is None:
        raise CommandError(ExitCode.NOTHING_RUNS, "no gate runs: `twd up` or `twd gate start` starts it")
    if as_json:
        click.echo(msgspec.json.encode(facts))
        return ExitCode.OK
    for name, told in _rows(facts):
        click.echo(f"{name:16} {told}")
    return ExitCode.OK


def _rows(facts: "GateFacts") -> Iterator[tuple[str, object]]:
    """What a person reads of a gate, line by line."""
    lists = {
        "gates": facts.gates,
        "agents": facts.agents,
        "resting": facts.resting,
        "useless": facts.useless,
        "cannot_score": facts.cannot_score,
        "wins": [f"{count} {name}" for name, count in facts.wins.items()],
        "calibrated": [f"{pair.target} {pair.member}" for pair in facts.calibrated],
        "stale": [f"{pair.target} {pair.member}: {pair.why}" for pair in facts.stale],
        "audited": [_audited(one) for one in facts.audited],
    }
    yield from ((name, ", ".join(told) or "-") for name, told in lists.items())
    plain = ("verifier", "requests", "ready", "target_s", "audit_s", "fleet_s", "saved_s", "kept_tokens")
    yield from ((name, getattr(facts, name)) for name in plain)
    yield from ((name, getattr(facts.stats, name)) for name in facts.stats.__struct_fields__)


def _audited(audit: "AuditFacts") -> str:
    held = f"{audit.errors} of {audit.audits} wrong, {audit.low:.1%} to {audit.high:.1%}"
    return f"{audit.target} {audit.member}: {held}"


async def _gate_facts(command_context: CliContext) -> "GateFacts | None":
    from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S
    from twd.wire.leases.gate import GateFacts
    from twd.wire.service import read_lease, told_by

    async with command_context.bus("admin") as bus:
        registry = await bus.leases(LEASE_BUCKET, LEASE_TTL_S)
        leases = [read_lease(entry.value, entry.key) for entry in await registry.entries()]
    return next((facts for _, facts in told_by(leases, GateFacts)), None)


gate.add_command(calibrate)
gate.add_command(evaluate)
