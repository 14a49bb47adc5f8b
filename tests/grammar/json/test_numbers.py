"""Ranges of numbers hold exactly the numbers between their bounds."""

import json
from decimal import Decimal

from hypothesis import assume, given
from hypothesis import strategies as st

from tests.grammar.made import schema, takes
from tests.properties import examples

WHOLE = st.one_of(st.integers(-120, 120), st.integers(-(10**6), 10**6))
DECIMAL = st.decimals(-20, 20, allow_nan=False, places=3).map(lambda value: value.normalize())


@given(st.none() | WHOLE, st.none() | WHOLE, st.lists(WHOLE, max_size=20))
@examples(150)
def test_integers(low: int | None, high: int | None, probes: list[int]) -> None:
    assume(low is None or high is None or low <= high)
    bounds = {"minimum": low, "maximum": high}
    grammar = schema(json.dumps({"type": "integer"} | {k: v for k, v in bounds.items() if v is not None}))
    near = [bound + step for bound in (low, high) if bound is not None for step in (-1, 0, 1)]
    for probe in probes + near:
        inside = (low is None or probe >= low) and (high is None or probe <= high)
        assert takes(grammar, str(probe)) == inside


@given(DECIMAL, DECIMAL, st.booleans(), st.booleans(), st.lists(DECIMAL, max_size=20))
@examples(200)
def test_decimals(one: Decimal, other: Decimal, low_open: bool, high_open: bool, probes: list[Decimal]) -> None:
    low, high = sorted([one, other])
    assume(low < high)
    names = ("exclusiveMinimum" if low_open else "minimum", "exclusiveMaximum" if high_open else "maximum")
    grammar = schema(f'{{"type": "number", "{names[0]}": {low:f}, "{names[1]}": {high:f}}}')
    small = Decimal("0.001")
    near = [bound + step for bound in (low, high) for step in (-small, Decimal(0), small, Decimal(1))]
    for probe in [*probes, *near, (low + high) / 2]:
        inside = (probe > low if low_open else probe >= low) and (probe < high if high_open else probe <= high)
        for written in {f"{probe:f}", f"{probe:.3f}" if probe == round(probe, 3) else f"{probe:f}"}:
            if not (written.startswith("-") and probe == 0):
                assert takes(grammar, written) == inside
