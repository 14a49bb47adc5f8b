"""Installations for tests, each apart from all others."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.running import Installed, running


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


@pytest.fixture(scope="session")
def demo(model_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """One demo for all: the real processes, the real broker, a real small model. Who kills some of it waits for it."""
    with running(tmp_path_factory.mktemp("demo") / "home", "--demo", weights=model_cache) as installed:
        yield installed


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """One installation without models for all who look at what runs. Who kills some of it waits for it."""
    with running(tmp_path_factory.mktemp("house") / "state") as installed:
        yield installed
