"""llama-server beside twd on a card: it computes there too, or the benchmark says that it does not."""

import os
from pathlib import Path

import pytest

from contrib.benchmarks.product.llama_server import cards, on_cards

LISTED = """Available devices:
  CUDA0: NVIDIA H100 80GB HBM3 (81079 MiB, 80527 MiB free)
  CUDA1: NVIDIA H100 80GB HBM3 (81079 MiB, 80527 MiB free)
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    return tmp_path


def stand_in(folder: Path, script: str) -> None:
    program = folder / "llama-server"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
def test_cards_are_named_as_it_lists_them(programs: Path) -> None:
    stand_in(programs, f"cat <<'END'\n{LISTED}END")
    assert cards(programs) == ["CUDA0", "CUDA1"]


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
def test_one_that_sees_no_card_is_not_measured(programs: Path) -> None:
    stand_in(programs, "echo 'failed to load x.so: undefined symbol' >&2; echo 'Available devices:'; echo '  (none)'")
    with pytest.raises(SystemExit, match=r"sees no card: failed to load x\.so: undefined symbol; name another build"):
        cards(programs)


def test_both_models_go_there() -> None:
    assert on_cards(["CUDA0"], draft=False, pooled=False) == ("-ngl", "99", "--device", "CUDA0")
    assert on_cards(["CUDA0"], draft=True, pooled=False)[4:] == ("-ngld", "99", "-devd", "CUDA0")


def test_a_pool_has_the_target_on_its_workers() -> None:
    assert on_cards(["CUDA0"], draft=True, pooled=True) == ()
