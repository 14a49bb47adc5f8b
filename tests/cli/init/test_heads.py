"""`twd init` finds trained heads: in the file of a model, and in files of their own."""

from pathlib import Path

import pytest

from tests.engine.shared_reference import assistant
from tests.engine.slices.recipes import recipe
from tests.model_fixtures import model_cache, q4_path
from twd.cli.init.proposal import FoundModel, propose, propose_for, settings_of
from twd.cli.init.scan import find_files

__all__ = ["model_cache", "q4_path"]
GIB = 1 << 30


def test_a_head_that_fits_is_named() -> None:
    model = FoundModel("m", path="/m/m.gguf", size_bytes=GIB, needed_bytes=GIB, heads=("/m/head.gguf",))
    proposal = propose([model], [], 8 * GIB)
    assert [one.head for one in settings_of(proposal).drafters] == ["/m/head.gguf"]
    assert proposal.why == "a trained head guesses for m: see drafters"
    pooled = propose_for(model, [model], 8 * GIB, pooled=True)
    assert not settings_of(pooled).drafters


def test_the_head_in_its_file_needs_no_line() -> None:
    model = FoundModel("m", path="/m/m.gguf", size_bytes=GIB, needed_bytes=GIB, own_head=True)
    proposal = propose([model], [], 8 * GIB)
    assert not settings_of(proposal).drafters
    assert proposal.why == "a trained head guesses for m: the one in its file"


@pytest.mark.model
def test_they_are_found_in_folders(q4_path: Path, tmp_path: Path) -> None:
    recipe("eagle3").write(tmp_path / "head.gguf", speaks=q4_path)
    recipe("llama").write(tmp_path / "fits.gguf", speaks=q4_path)
    recipe("qwen35 with a head").write(tmp_path / "own.gguf", speaks=q4_path)
    recipe("qwen2").write(tmp_path / "other.gguf", speaks=q4_path)
    recipe("gemma4").write(tmp_path / "gemma.gguf", speaks=q4_path)
    assistant().write(tmp_path / "assistant.gguf", speaks=q4_path)
    found = {one.name: one for one in find_files([tmp_path])[0]}
    assert {name: sorted(Path(head).name for head in one.heads) for name, one in found.items()} == {
        "head": [],
        "fits": ["head.gguf"],
        "own": ["head.gguf"],
        "other": [],
        "gemma": ["assistant.gguf", "head.gguf"],
        "assistant": [],
    }
    assert [name for name, one in found.items() if one.own_head] == ["own"]
    for name in ("head", "assistant"):
        assert found[name].problem == "it holds a trained head, which guesses for another model"
