"""Who knocks at a stage's port: no address takes the places of all."""

from tests.ring.rings import PLAIN, fake_ring
from twd.stage.server import _GUESTS_MAX, _GUESTS_OF_ONE_MAX


def test_no_address_takes_the_places_of_all() -> None:
    with fake_ring(1, PLAIN) as ring:
        server = ring.stages[0].server
        assert [server._has_room("a") for _ in range(_GUESTS_OF_ONE_MAX + 1)] == [True] * _GUESTS_OF_ONE_MAX + [False]
        others = [server._has_room(f"b{number}") for number in range(_GUESTS_MAX)]
        assert others.count(True) == _GUESTS_MAX - _GUESTS_OF_ONE_MAX
