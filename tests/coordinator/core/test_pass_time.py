"""What a pass takes, by the kinds of its weights, its layers and its cache; and what measurements make of that."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.coordinator.machines import machine
from twd.coordinator.core.machines.devices import processor
from twd.coordinator.core.pass_time import CPU_KINDS, OTHER_KIND, Measured, Reading, Speed, learned, main_kind, seconds
from twd.wire.node import MeasuredStep, WeightShare

GB = 10**9
CPU = Speed(20 * GB, CPU_KINDS, 50e-6)
Q8 = Reading(30, GB, (("F32", 0.01), ("Q8_0", 0.99)), head_bytes=GB // 10, head_kind="Q8_0")


def test_a_device_that_knows_no_kinds_reads_everything_alike() -> None:
    assert seconds(Q8, Speed(10 * GB)) == pytest.approx(0.11)
    assert seconds(Reading(30, GB), CPU) == pytest.approx(0.05 + 30 * 50e-6)


def test_kinds_the_head_the_cache_and_each_layer_count() -> None:
    slow = Speed(10 * GB, (("Q8_0", 0.5), ("F32", 1.0)), 1e-3)
    reading = Reading(10, GB, (("Q8_0", 0.5), ("F32", 0.25)), 0.1 * GB, GB, "Q8_0")
    assert seconds(reading, slow) == pytest.approx(0.1 + 0.025 + 0.01 + 0.2 + 0.01)
    odd = replace(reading, head_kind="NEW")
    assert seconds(odd, slow) == pytest.approx(seconds(reading, slow) + 0.1 / OTHER_KIND - 0.2)


def test_what_was_measured_of_a_kind_counts_for_that_kind() -> None:
    f32 = replace(Q8, kinds=(("F32", 1.0),), head_kind="F32")
    found = learned(CPU, [Measured(Q8, 2 * seconds(Q8, CPU))] * 3 + [Measured(f32, seconds(f32, CPU))])
    assert seconds(Q8, found) == pytest.approx(2 * seconds(Q8, CPU))
    assert seconds(f32, found) == pytest.approx(seconds(f32, CPU))
    other = replace(Q8, kinds=(("Q4_K", 1.0),), head_kind="Q4_K")
    assert seconds(other, found) == pytest.approx(1.5 * seconds(other, CPU)), "others: as is usual here"


@given(st.floats(min_value=1e-4, max_value=10.0))
def test_a_model_that_was_measured_is_foretold_as_measured(taken: float) -> None:
    assert seconds(Q8, learned(CPU, [Measured(Q8, taken)])) == pytest.approx(taken)


def test_nothing_measured_changes_nothing() -> None:
    assert learned(CPU, []) == CPU
    assert learned(CPU, [Measured(Q8, 0.0)]) == CPU
    assert main_kind(()) == ""


def test_a_machines_processor_is_as_quick_as_its_models_were() -> None:
    kinds = [WeightShare(kind=kind, share=share) for kind, share in Q8.kinds]
    step = MeasuredStep(
        layers=Q8.layers, weight_bytes=GB, kinds=kinds, head_bytes=Q8.head_bytes, head_kind="Q8_0", ms=80.0, window=1.6
    )
    facts = machine("desk", 64)
    before = processor(facts)
    known = processor(msgspec.structs.replace(facts, cpu=msgspec.structs.replace(facts.cpu, measured=[step])))
    assert seconds(Q8, before.pace) != pytest.approx(0.08)
    assert seconds(Q8, known.pace) == pytest.approx(0.08)
    assert known.window_factor == 1.6
