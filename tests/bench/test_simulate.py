"""The real deciders in played time: near what the costs allow, and never much slower than plain."""

from statistics import mean

import pytest

from twd.bench.analytic import SpeculationSetting, best_continuous, best_round, plain_rate
from twd.bench.simulate import Simulation
from twd.speculator.core.ab_test import SpeculationABTest


def cost(rows: int) -> float:
    return 11.5 + 1.5 * rows


def gain(setting: SpeculationSetting, *, beside: bool = False, drafts: bool = True) -> float:
    played = mean(Simulation(setting, seed=seed, tokens=512, beside=beside, drafts=drafts).run() for seed in range(3))
    return played / plain_rate(setting)


def test_without_drafts_it_is_plain_decoding() -> None:
    assert gain(SpeculationSetting(cost, 5.0, 0.9), drafts=False) == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize(
    "round_trip_ms", [0.5, 20.0, *(pytest.param(ms, marks=pytest.mark.thorough) for ms in (5.0, 50.0))]
)
@pytest.mark.parametrize("acceptance", [pytest.param(0.75, marks=pytest.mark.thorough), 0.96])
def test_a_drafter_elsewhere_reaches_most_of_what_its_costs_allow(acceptance: float, round_trip_ms: float) -> None:
    setting = SpeculationSetting(cost, 5.0, acceptance, round_trip_ms)
    allowed = best_continuous(setting) / plain_rate(setting)
    assert gain(setting) >= 0.9 * allowed


@pytest.mark.parametrize("round_trip_ms", [1.0, 20.0])
@pytest.mark.parametrize("pass_ms", [80.0, 170.0])
def test_where_passes_are_long_drafts_are_made_meanwhile(pass_ms: float, round_trip_ms: float) -> None:
    setting = SpeculationSetting(lambda rows: pass_ms + 2.6 * rows, 8.0, 0.97, round_trip_ms)
    assert gain(setting) >= 0.81 * best_continuous(setting) / plain_rate(setting)


@pytest.mark.parametrize("acceptance", [0.75, 0.96])
def test_a_drafter_on_the_same_cores_reaches_most_of_what_turns_allow(acceptance: float) -> None:
    setting = SpeculationSetting(cost, 5.0, acceptance, 0.6)
    assert gain(setting, beside=True) >= 0.9 * best_round(setting)[1] / plain_rate(setting)


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("acceptance", [0.0, 0.05, 0.3])
def test_a_useless_drafter_costs_little(acceptance: float, beside: bool) -> None:
    assert gain(SpeculationSetting(cost, 4.0, acceptance, 0.6), beside=beside) >= 0.95


def test_the_way_to_the_drafter_hardly_shows() -> None:
    near, far = (gain(SpeculationSetting(cost, 5.0, 0.96, way)) for way in (0.0, 20.0))
    assert far >= 0.85 * near


def test_the_same_seed_plays_the_same() -> None:
    setting = SpeculationSetting(cost, 5.0, 0.8, 3.0)
    assert Simulation(setting, seed=4, tokens=64).run() == Simulation(setting, seed=4, tokens=64).run()


@pytest.mark.parametrize("acceptance", [0.3, 0.6])
def test_a_speculator_that_is_wrong_about_costs_finds_out(acceptance: float) -> None:
    setting = SpeculationSetting(cost, 6.0, acceptance, 0.6)
    simulation = Simulation(setting, tokens=2048, beside=True, believed=lambda rows: 60.0 + rows)
    assert simulation.run() / plain_rate(setting) >= 0.95


IN_THE_WAY = [
    (SpeculationSetting(lambda rows: 5.0 + 0.1 * rows, 6.0, 0.95, 0.5), 1.4),
    (SpeculationSetting(lambda rows: 5.0 + 0.1 * rows, 6.0, 0.95, 20.0), 1.4),
    (SpeculationSetting(lambda rows: 5.0 + 0.1 * rows, 6.0, 0.95, 0.5), 1.1),
    (SpeculationSetting(lambda rows: 4.0 + 6.0 * rows, 2.0, 0.95, 0.5), 1.6),
]


def unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on nobody looks whether drafters make the text quicker."""
    monkeypatch.setattr(SpeculationABTest, "wants_plain", lambda race, restart_ms=0.0: False)


@pytest.mark.parametrize(
    ("setting", "hindrance"),
    [*IN_THE_WAY[1:3], *(pytest.param(*case, marks=pytest.mark.thorough) for case in (IN_THE_WAY[0], *IN_THE_WAY[3:]))],
)
def test_a_drafter_elsewhere_that_is_in_the_way_is_found_out(
    setting: SpeculationSetting, hindrance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def later() -> float:
        """The gain over all but the first 512 tokens."""
        whole, start = (
            tokens / Simulation(setting, tokens=tokens, hindrance=hindrance).run() for tokens in (2048, 512)
        )
        return 1536 / (whole - start) / plain_rate(setting)

    assert later() >= 0.97
    unwatched(monkeypatch)
    assert later() < 0.95, "its guesses are good: only the outcome tells"


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("token_ms", "acceptance", "round_trip_ms"),
    [(5.0, 0.96, 20.0), (5.0, 0.96, 0.5), (2.0, 0.9, 0.5), (2.0, 0.9, 20.0)],
)
def test_a_drafter_elsewhere_that_helps_loses_next_to_nothing_by_being_watched(
    token_ms: float, acceptance: float, round_trip_ms: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def played() -> float:
        setting = SpeculationSetting(cost, token_ms, acceptance, round_trip_ms)
        return mean(Simulation(setting, seed=seed, tokens=2048).run() for seed in range(4)) / plain_rate(setting)

    watched = played()
    assert watched >= 1.8
    unwatched(monkeypatch)
    assert watched >= 0.98 * played()
