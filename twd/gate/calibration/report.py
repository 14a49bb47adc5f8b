"""The result of a calibration, as text and as a dictionary. Pure."""

from collections.abc import Iterator, Sequence
from typing import Any

from twd.gate.calibration.binomial import excess, interval
from twd.gate.calibration.search import Calibrated, Observation, Rate, verdicts_at
from twd.gate.verdict import EXACT, Rule, decide


def summary(found: Calibrated, seen: Sequence[Observation]) -> dict[str, Any]:
    """All figures as a dictionary."""
    exact = {name: _verdicts(verdicts_at(some, EXACT)) for name, some in _by_kind(seen).items()}
    return {
        "rule": None if found.rule is None else {"statistic": found.rule.statistic, "tolerance": found.rule.tolerance},
        "answers": len(seen),
        "parts": list(found.counts),
        "auroc": round(found.auroc, 4),
        "aurocs": {name: round(value, 4) for name, value in found.aurocs.items()},
        "thresholds": [
            {"tolerance": one.tolerance, **_rate(one.found), "bound": round(one.bound, 5), "holds": one.holds}
            for one in found.tried
        ],
        "held_out": _verdicts(found.held_out),
        "random_pass": _rate(found.all_passes),
        "random_pass_excess": [round(bound, 4) for bound in _excess(found)],
        "by_kind": {name or "all": _verdicts(rate) for name, rate in found.by_kind.items()},
        "uncalibrated": exact if found.rule is None else {},
        "target_ms": cost(found, seen),
    }


def _rate(rate: Rate) -> dict[str, Any]:
    low, high = rate.bounds
    return {
        "passes": rate.passes,
        "of": rate.of,
        "errors": rate.errors,
        "pass_rate": round(rate.share, 4),
        "error_rate": round(rate.rate, 4),
        "error_interval": [round(low, 4), round(high, 4)],
    }


def _verdicts(rate: Rate) -> dict[str, Any]:
    return _rate(rate) | {"corrected": rate.corrected, "rejected": rate.of - rate.passes - rate.corrected}


def _excess(found: Calibrated) -> tuple[float, float]:
    """By how much the error rate of a random pass exceeds the rule's."""
    everybody, passed = found.all_passes, found.held_out
    return excess(everybody.errors, everybody.passes, passed.errors, passed.passes)


def cost(found: Calibrated, seen: Sequence[Observation]) -> dict[str, float]:
    """The target's mean milliseconds for a prompt and its answer: judged, written with drafts, without drafts."""
    if not seen:
        return {}
    rule, count = found.rule or EXACT, len(seen)
    reading = sum(one.read_ms for one in seen)
    judged = reading + sum(one.judge_ms + _left(one, rule) * one.exact_ms for one in seen)
    exact = reading + sum(one.exact_ms for one in seen)
    plain = reading + sum(one.plain_ms for one in seen)
    return {
        "gate": round(judged / count, 2),
        "exact": round(exact / count, 2),
        "plain": round(plain / count, 2),
        "gate_to_exact": round(judged / exact, 4) if exact else 0.0,
    }


def _left(one: Observation, rule: Rule) -> float:
    """The share of an answer that the target writes."""
    return 1.0 - decide(one.gaps, one.tokens, rule).keep / max(1, one.tokens)


def rows(found: Calibrated, seen: Sequence[Observation]) -> Iterator[str]:
    """The figures as lines of text."""
    wrong = sum(one.wrong for one in seen)
    yield f"{len(seen)} answers, {wrong} of them wrong where the target's own is not; parts of {found.counts}"
    if found.aurocs:
        yield "AUROC " + ", ".join(f"{name} {value:.3f}" for name, value in found.aurocs.items())
    for one in found.tried:
        mark = "holds" if one.holds else "fails"
        yield f"  up to {one.tolerance:8.4f}: {_words(one.found)}, at most {one.bound:.2%}: {mark}"
    if found.rule is not None:
        yield from _rule_rows(found, found.rule, seen)
        return
    for name, some in _by_kind(seen).items():
        yield f"  {name:12} {_wrong(some)}; while that is not calibrated {_verdict_words(verdicts_at(some, EXACT))}"


def _by_kind(seen: Sequence[Observation]) -> dict[str, list[Observation]]:
    """All of them, and then those of each kind."""
    kinds = sorted({one.kind for one in seen} - {""})
    found = {"all": list(seen)} if seen else {}
    return found | {kind: [one for one in seen if one.kind == kind] for kind in kinds}


def _wrong(seen: Sequence[Observation]) -> str:
    errors = sum(one.wrong for one in seen)
    low, high = interval(errors, len(seen))
    return f"{errors} of {len(seen)} wrong ({low:.2%} to {high:.2%})"


def _rule_rows(found: Calibrated, rule: Rule, seen: Sequence[Observation]) -> Iterator[str]:
    """What the rule does to answers that it was not made from."""
    yield f"rule: {rule.statistic} gap at most {rule.tolerance:.4f}"
    yield f"not looked at before: {_words(found.held_out)}; {_verdict_words(found.held_out)}"
    low, high = _excess(found)
    more = f"{100 * low:+.2f} to {100 * high:+.2f} points beside the rule"
    yield f"a random pass: {found.all_passes.rate:.2%} wrong, {more}"
    for name, rate in found.by_kind.items():
        yield f"  {name or 'all':12} {_words(rate)}; {_verdict_words(rate)}"
    spent = cost(found, seen)
    if spent:
        yield "target's time for an answer: " + ", ".join(
            f"{name} {spent[name]:.0f} ms" for name in ("gate", "exact", "plain")
        )


def _words(rate: Rate) -> str:
    low, high = rate.bounds
    return f"{rate.passes} of {rate.of} pass ({rate.share:.0%}), {rate.errors} wrong ({low:.2%} to {high:.2%})"


def _verdict_words(rate: Rate) -> str:
    rejected = rate.of - rate.passes - rate.corrected
    return f"{rate.passes} approved, {rate.corrected} corrected, {rejected} rejected"
