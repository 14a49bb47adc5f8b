"""What tells copies of a model apart."""

import os
from pathlib import Path

import pytest

from twd.gguf_tools.model_file import file_hash

SIZE = 40 << 20


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(os.urandom(1 << 20) * (SIZE >> 20))
    return path


@pytest.mark.parametrize("gap", [(0, 4096), (SIZE // 3, SIZE // 2), (SIZE - 4096, SIZE)])
def test_a_copy_with_a_part_that_never_came_is_another_file(model: Path, gap: tuple[int, int]) -> None:
    whole = file_hash(model)
    assert file_hash(model) == whole
    with model.open("r+b") as file:
        file.seek(gap[0])
        file.write(bytes(gap[1] - gap[0]))
    assert file_hash(model) != whole
