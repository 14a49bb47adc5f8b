"""The result of a calibration, as text and as a dictionary. Pure."""

from collections.abc import Iterator, Sequence
from typing import Any

from twd.gate.calibration.search import Calibrated, Observation, Rate
from twd.gate.verdict import Rule


def summary(found: Calibrated, seen: Sequence[Observation]) -> dict[str, Any]:
    """All figures as a dictionary."""
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
        "held_out": _rate(found.held_out),
        "random_pass": _rate(found.all_passes),
        "by_kind": {name or "all": _rate(rate) for name, rate in found.by_kind.items()},
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


def cost(found: Calibrated, seen: Sequence[Observation]) -> dict[str, float]:
    """The target's mean milliseconds for an answer: judged, written with drafts, written without drafts."""
    if not seen:
        return {}
    rule, count = found.rule, len(seen)
    judged = sum(one.judge_ms for one in seen)
    judged += sum(one.exact_ms for one in seen if rule is None or one.value(rule.statistic) > rule.tolerance)
    exact, plain = sum(one.exact_ms for one in seen), sum(one.plain_ms for one in seen)
    return {
        "gate": round(judged / count, 2),
        "exact": round(exact / count, 2),
        "plain": round(plain / count, 2),
        "gate_to_exact": round(judged / exact, 4) if exact else 0.0,
    }


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


def _rule_rows(found: Calibrated, rule: Rule, seen: Sequence[Observation]) -> Iterator[str]:
    """What the rule does to answers that it was not made from."""
    yield f"rule: {rule.statistic} gap at most {rule.tolerance:.4f}"
    yield f"not looked at before: {_words(found.held_out)}; a random pass: {found.all_passes.rate:.2%} wrong"
    for name, rate in found.by_kind.items():
        yield f"  {name or 'all':12} {_words(rate)}"
    spent = cost(found, seen)
    if spent:
        yield "target's time for an answer: " + ", ".join(
            f"{name} {spent[name]:.0f} ms" for name in ("gate", "exact", "plain")
        )


def _words(rate: Rate) -> str:
    low, high = rate.bounds
    return f"{rate.passes} of {rate.of} pass ({rate.share:.0%}), {rate.errors} wrong ({low:.2%} to {high:.2%})"
