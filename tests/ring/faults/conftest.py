"""A ring of three played stages."""

from collections.abc import Iterator

import pytest

from tests.ring.rings import Ring, fake_ring


@pytest.fixture
def ring() -> Iterator[Ring]:
    with fake_ring(3) as ring:
        yield ring
