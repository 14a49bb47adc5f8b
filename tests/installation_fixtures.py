"""Installations for tests, each apart from all others."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.running import Installed


@pytest.fixture
def installations(tmp_path: Path) -> Iterator[Callable[[], Installed]]:
    """Makes installations; ends what they left running."""
    made: list[Installed] = []

    def make() -> Installed:
        folder = tmp_path / f"user{len(made)}"
        folder.mkdir()
        made.append(Installed(folder / "state"))
        return made[-1]

    yield make
    for installed in made:
        installed.clean_up()


@pytest.fixture
def installed(installations: Callable[[], Installed]) -> Installed:
    """One installation."""
    return installations()
