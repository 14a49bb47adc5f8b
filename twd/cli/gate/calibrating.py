"""`twd gate calibrate` and `twd gate eval`: what the members' answers to one's own prompts are worth."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from twd.cli.common.context import CliContext
from twd.cli.common.output import check_output
from twd.cli.gate.measuring import members_named, observe_prompts, read_prompts
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode

if TYPE_CHECKING:
    from twd.gate.calibration.lines import Read
    from twd.gate.calibration.profile import Conditions, Profile
    from twd.gate.calibration.search import Calibrated, Observation
    from twd.gate.observing import Failed, Observed
    from twd.gate.verdict import Rule

_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
_NEW_FILE: Final = click.Path(dir_okay=False, writable=True, path_type=Path)
_SHARE: Final = click.FloatRange(0.0, 1.0, min_open=True, max_open=True)


def _measured(command: Any) -> Any:
    """The options of both commands that ask a running system."""
    options = (
        click.argument("file", type=_FILE),
        click.option("--judge", "-m", default="", help="Who judges; without: gate.verifier, or the default model."),
        click.option("--member", multiple=True, help="Who writes; more than once; without: all members of the gate."),
        click.option(
            "--error",
            default="check",
            type=click.Choice(["check", "same", "judge"]),
            show_default=True,
            help="What an error is: a check that fails, another text, or what a model likes less in both orders.",
        ),
        click.option("--arbiter", default="", help="With --error judge: the model that compares; without: the judge."),
        click.option("--temperature", default=0.0, type=click.FloatRange(0.0, 2.0), help="Of the answers."),
        click.option(
            "--max-tokens", default=256, type=click.IntRange(1, 8192), help="Of an answer, unless its line says it."
        ),
        click.option(
            "--keep",
            type=_NEW_FILE,
            help="Write down there what each prompt gave, and ask none again that is there.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print as JSON."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@_measured
@click.option("--max-error", default=0.05, type=_SHARE, show_default=True, help="The error rate to stay below.")
@click.option(
    "--confidence", default=0.95, type=_SHARE, show_default=True, help="How sure that is. It grows with each attempt."
)
@click.option("--plot", type=_NEW_FILE, help="Write the ROC curve there, as SVG.")
@click.pass_obj
def calibrate(command_context: CliContext, /, file: Path, plot: Path | None, as_json: bool, **how: Any) -> ExitCode:
    """Find how far the members' answers to the prompts of FILE may be off, and prove it for each.

    FILE holds JSON lines: chats (`{"messages": [...], "check": {"contains": "Paris"}}`), lines of OpenAI batches, or
    what `gate.record` kept. With too few prompts nobody is asked and nothing is written; exit code 10 says so.
    """
    from twd.gate.calibration.attempts import Attempt
    from twd.gate.calibration.search import calibrate as find
    from twd.gate.observing import Observed, unchecked

    _check_outputs(file, plot, how["keep"])
    read = read_prompts(file)
    unfit = unchecked(read.lines, how["error"])
    best = _at_best(read, unfit, how)
    if best.rule is None:
        _show(best, Observed(failed=unfit), read, as_json, f"nobody was asked: {best.missing}")
        return ExitCode.DIFFERENT
    if plot is not None and len(members_named(command_context, how)) > 1:
        raise click.UsageError("--plot draws one curve: name one --member")
    observed = asyncio.run(observe_prompts(command_context, read, as_json, **how))
    home, all_proved = command_context.settings.home_dir, True
    for conditions, one in observed:
        attempt = Attempt(home, conditions, one.seen, how["max_error"], how["error"])
        confidence = attempt.confidence(how["confidence"])
        calibrated = find(one.seen, how["max_error"], confidence)
        if calibrated.tried:
            attempt.keep()
        if plot is not None and one.seen:
            plot.write_text(_curve(one.seen), "utf-8")
        outcome = _settled(home, calibrated, conditions, {**how, "confidence": confidence}, read)
        _show(calibrated, one, read, as_json, _of_attempt(attempt.number, confidence) + outcome, conditions)
        all_proved = all_proved and calibrated.rule is not None
    return ExitCode.OK if all_proved else ExitCode.DIFFERENT


def _of_attempt(number: int, confidence: float) -> str:
    """What a further attempt costs."""
    if number == 1:
        return ""
    return f"attempt {number} with other answers, so it takes a confidence of {100 * confidence:.5g} %; "


def _check_outputs(file: Path, *outputs: Path | None) -> None:
    for output in outputs:
        if output is not None:
            check_output(output, file)


def _at_best(read: "Read", unfit: "list[Failed]", how: dict[str, Any]) -> "Calibrated":
    """What is found if every answer is right and passes."""
    from twd.gate.calibration.search import Observation, calibrate

    left = {one.line for one in unfit}
    lines = [line for number, line in enumerate(read.lines, 1) if number not in left]
    seen = [Observation(one.conversation, (), wrong=False) for one in lines]
    return calibrate(seen, how["max_error"], how["confidence"])


def _settled(home: Path, found: "Calibrated", conditions: "Conditions", how: dict[str, Any], read: "Read") -> str:
    """Write the profile where a rule was proved; returns what was done."""
    from twd.gate.calibration import profile

    if found.rule is not None:
        return f"written to {profile.write(home, _profile(found, conditions, how, read))}"
    before = _profile_of(home, conditions)
    counts = not isinstance(before, str) and not before.stale(conditions)
    still = "; what was calibrated before still counts" if counts else ""
    return f"nothing is written: {found.missing}{still}"


@click.command("eval")
@_measured
@click.pass_obj
def evaluate(command_context: CliContext, /, file: Path, as_json: bool, **how: Any) -> ExitCode:
    """Measure the calibrated gate on other prompts; changes nothing."""
    _check_outputs(file, how["keep"])
    read, home, named = read_prompts(file), command_context.settings.home_dir, bool(how["member"])
    told = observe_prompts(command_context, read, as_json, lambda them: _with_profiles(home, them, named), **how)
    for conditions, one in asyncio.run(told):
        kept = _profile_of(home, conditions)
        assert not isinstance(kept, str)
        stale = kept.stale(conditions)
        outcome = f"the profile is stale, {stale}" if stale else "the profile counts"
        _show(_evaluated(one.seen, kept.rule), one, read, as_json, outcome, conditions)
    return ExitCode.OK


def _evaluated(seen: "list[Observation]", rule: "Rule") -> "Calibrated":
    """What a rule does to answers."""
    from twd.gate.calibration.search import Calibrated, Rate, auroc, verdicts_at

    kinds = sorted({one.kind for one in seen})
    return Calibrated(
        rule,
        "",
        auroc=auroc(seen, rule.statistic),
        held_out=verdicts_at(seen, rule),
        all_passes=Rate(len(seen), sum(one.wrong for one in seen), len(seen)),
        by_kind={name: verdicts_at([one for one in seen if one.kind == name], rule) for name in kinds},
    )


def _with_profiles(home: Path, members: "list[Conditions]", named: bool) -> "list[Conditions]":
    """Those that were calibrated; raises CommandError where none was, or where one was named that was not."""
    found = {one.member: _profile_of(home, one) for one in members}
    lacking = [f"{name}: {why}" for name, why in found.items() if isinstance(why, str)]
    if (named and lacking) or len(lacking) == len(found):
        raise CommandError(ExitCode.CONFIG, "; ".join(lacking))
    return [one for one in members if not isinstance(found[one.member], str)]


def _profile_of(home: Path, conditions: "Conditions") -> "Profile | str":
    from twd.gate.calibration import profile

    return profile.read(profile.path_of(home, conditions.judge, conditions.member))


def _profile(found: "Calibrated", conditions: "Conditions", how: dict[str, Any], read: "Read") -> Any:
    import time

    from twd.gate.calibration.profile import Profile

    assert found.rule is not None
    last = [one for one in found.tried if one.holds][-1]
    return Profile(
        conditions=conditions,
        statistic=found.rule.statistic,
        tolerance=found.rule.tolerance,
        max_error=how["max_error"],
        confidence=how["confidence"],
        passes=last.found.passes,
        errors=last.found.errors,
        bound=last.bound,
        prompts=read.hash,
        error=how["error"],
        made_ms=time.time_ns() // 1_000_000,
    )


def _curve(seen: "list[Observation]") -> str:
    from twd.bench.plot import lines
    from twd.gate.calibration.search import auroc, roc
    from twd.gate.verdict import STATISTICS

    kind = max(STATISTICS, key=lambda one: auroc(seen, one))
    points = [(0.0, 0.0, 0.0), *roc(seen, kind)]
    title = f"ROC of the {kind} gap: AUROC {auroc(seen, kind):.3f}"
    wrong = [100 * one[2] for one in points]
    series = [("right answers that pass", [100 * one[1] for one in points]), ("chance", wrong)]
    return lines(title, wrong, series, "% of wrong answers that pass", "%")


def _show(
    found: "Calibrated",
    observed: "Observed",
    read: "Read",
    as_json: bool,
    outcome: str,
    conditions: "Conditions | None" = None,
) -> None:
    import msgspec

    from twd.gate.calibration.report import rows, summary

    pair = {"judge": conditions.judge, "member": conditions.member} if conditions is not None else {}
    told = {**pair, **summary(found, observed.seen), "outcome": outcome, "broken": read.broken, "doubled": read.doubled}
    told["failed"] = [{"line": one.line, "why": one.why} for one in observed.failed]
    if as_json:
        click.echo(msgspec.json.encode(told))
        return
    failures = [f"prompt {one.line}: {one.why}" for one in observed.failed]
    head = [f"{conditions.member}, judged by {conditions.judge}:"] if conditions is not None else []
    for line in (*head, *_first(read.broken), *_first(failures), *rows(found, observed.seen), outcome):
        click.echo(line)


def _first(told: list[str], most: int = 10) -> list[str]:
    """The first of them, and how many more there are."""
    more = [f"... and {len(told) - most} more"] if len(told) > most else []
    return told[:most] + more
