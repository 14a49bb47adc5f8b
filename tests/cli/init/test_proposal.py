"""What to propose for what was found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.cli.init.proposal import (
    FoundMachine,
    FoundModel,
    InitProposal,
    guesses_for,
    hosts_of,
    parameters_in,
    propose,
    settings_of,
)
from twd.settings.show import dump_settings
from twd.wire.failures import TwdError

GIB = 1 << 30


def file(name: str, gib: float, parameters: float, family: str = "llama", vocabulary: int = 100) -> FoundModel:
    size = int(gib * GIB)
    return FoundModel(
        name,
        path=f"/m/{name}.gguf",
        architecture=family,
        parameters=int(parameters * 1e9),
        size_bytes=size,
        needed_bytes=size + GIB,
        vocabulary=vocabulary,
    )


def server(name: str, kind: str = "ollama", scores: bool = False, url: str = "http://10.0.0.5:11434") -> FoundModel:
    return FoundModel(name, url=url, kind=kind, scores=scores)


def test_the_biggest_that_fits_is_served_and_a_small_relative_guesses() -> None:
    found = [file("big", 40, 70), file("mid", 5, 8), file("small", 0.7, 1), file("other", 0.5, 0.5, family="qwen2")]
    proposal = propose(found, [], 16 * GIB)
    assert proposal.target == found[1]
    assert proposal.drafters == (found[2],)
    assert propose(found, [], 64 * GIB).target == found[0]


def test_what_fits_nowhere_is_left_to_the_machines_together() -> None:
    found = [file("big", 40, 70), file("small", 0.7, 1)]
    peers = [FoundMachine("desk", 16 * GIB, 24 * GIB, 0), FoundMachine("shelf", 16 * GIB, 0, 0)]
    proposal = propose(found, peers, 8 * GIB)
    assert (proposal.target, proposal.pooled) == (found[0], True)
    assert settings_of(proposal).mode == "combined"
    alone = propose(found, [], 8 * GIB)
    assert (alone.target, alone.pooled) == (found[1], False)


def test_a_server_that_cannot_check_guesses_gets_none() -> None:
    found = [server("qwen3:32b"), server("qwen3:1.7b")]
    proposal = propose(found, [], 8 * GIB)
    assert proposal.target == found[0]
    assert proposal.drafters == ()
    assert proposal.others == (found[1],)
    assert "cannot check guesses" in proposal.why


def test_a_server_that_scores_is_a_target_with_drafters() -> None:
    found = [server("qwen3-32b", "vllm", scores=True), server("qwen3:0.6b"), file("llama", 1, 1)]
    proposal = propose(found, [], 8 * GIB)
    assert proposal.target == found[0]
    assert proposal.drafters == (found[1],)


def test_a_quicker_copy_of_the_same_model_guesses_too() -> None:
    full, quick, near = file("a-f16", 2, 1), file("a-q4", 0.6, 1), file("a-q8", 1.1, 1)
    assert guesses_for(quick, full)
    assert not guesses_for(near, full)
    assert not guesses_for(file("b", 0.1, 0.1, vocabulary=7), full)


def test_one_machine_runs_one_drafter() -> None:
    found = [file("big", 8, 8), file("a", 0.5, 0.5), file("b", 0.6, 0.6)]
    assert propose(found, [], 64 * GIB).drafters == (found[1],)


def test_nothing_usable_proposes_nothing() -> None:
    assert propose([], [], GIB) == InitProposal(None)
    assert propose([file("big", 40, 70)], [], GIB).target is None
    assert propose([FoundModel("broken", path="/m/x.gguf", problem="cut short")], [], GIB).target is None


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("qwen3-32b", 32_000_000_000),
        ("smollm2:135m", 135_000_000),
        ("Llama-3.2-0.5B-Instruct", 500_000_000),
        ("mixtral-8x7b", 0),
        ("gpt-4o-mini", 0),
        ("phi3b5", 0),
    ],
)
def test_names_tell_sizes(name: str, parameters: int) -> None:
    assert parameters_in(name) == parameters


@pytest.mark.parametrize(
    ("subnet", "count"),
    [("192.168.1.0/24", 254), ("10.0.0.7/32", 1), ("10.0.0.6/31", 2), ("127.0.0.0/29", 6), ("fd00::/124", 15)],
)
def test_networks_of_any_length_are_searched(subnet: str, count: int) -> None:
    assert len(hosts_of([subnet, subnet])) == count


@pytest.mark.parametrize("subnet", ["10.0.0.0/8", "0.0.0.0/0", "fd00::/64", "everywhere", "10.0.0.0/33", ""])
def test_what_is_too_large_or_no_network_is_refused(subnet: str) -> None:
    with pytest.raises(TwdError, match="subnet"):
        hosts_of([subnet])


def test_too_many_networks_are_too_many() -> None:
    with pytest.raises(TwdError, match="too many"):
        hosts_of(["10.1.0.0/16", "10.2.0.0/16"])


def test_a_name_ends_in_a_letter_or_digit() -> None:
    settings = settings_of(InitProposal(server("my model ☃", "vllm", scores=True, url="http://10.0.0.1:8000")))
    assert list(settings.backends) == ["my-model"]


@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=6))
def test_any_names_make_settings_that_can_be_written(names: list[str]) -> None:
    found = [server(name, "vllm", scores=True, url=f"http://10.0.0.{place}:8000") for place, name in enumerate(names)]
    settings = settings_of(InitProposal(found[0], tuple(found[1:2]), tuple(found[2:])))
    assert len(settings.backends) == len(found) - len(found[1:2])
    assert dump_settings(settings)
