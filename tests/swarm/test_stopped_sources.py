"""A source that is stopped in the middle costs little: its units come from the others, in worlds with slow links."""

import random
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from twd.swarm.core import Picker, Request

MIB = 1 << 20
STEP_S = 0.02
COST_S = 3.0
RATES = st.sampled_from((5e6, 10e6, 30e6, 100e6))


@dataclass
class Links:
    """Sources with an upload rate each, one puller with a download rate, and the bytes of requests on their way."""

    picker: Picker
    upload: dict[str, float]
    download: float
    bytes: dict[Request, float] = field(default_factory=dict)
    stopped: str = ""
    now: float = 0.0

    def step(self) -> None:
        """Some milliseconds pass."""
        for request in self.picker.hung(self.now):
            self.picker.failed(request, self.now)
            self.bytes.pop(request, None)
        self.bytes |= dict.fromkeys(self.picker.decide(self.now), 0.0)
        self.now += STEP_S
        moving = [one for one in self.bytes if one.source != self.stopped]
        rates = {one: self.upload[one.source] / sum(one.source == other.source for other in moving) for one in moving}
        share = min(1.0, self.download / sum(rates.values())) if rates else 1.0
        for request, rate in rates.items():
            if request in self.bytes:  # otherwise it was for a unit that just came from elsewhere
                self.move(request, rate * share * STEP_S)

    def move(self, request: Request, count: float) -> None:
        """Bytes of a request came."""
        self.bytes[request] += count
        self.picker.heard(request, self.now)
        while request.open and self.bytes[request] >= (request.done + 1) * MIB:
            index = request.open[0]
            self.picker.came(request, self.now)
            self.picker.got(index)
            self.cancel_copies(request, index)
        if not request.open:
            self.end(request)

    def cancel_copies(self, request: Request, index: int) -> None:
        """As a pull does: other requests end when all of their units are here."""
        missing = set(self.picker.missing())
        for other in [one for one in self.bytes if one is not request and index in one.open]:
            if not missing & set(other.open):
                self.end(other)

    def end(self, request: Request) -> None:
        self.picker.over(request)
        del self.bytes[request]


def pulled_s(units: int, upload: dict[str, float], download: float, stop_at: int, seed: int) -> tuple[float, float]:
    """When the first source is stopped, as so many units are missing, and when all is here."""
    picker = Picker(units, MIB, range(units), random.Random(seed).randrange)
    for name in upload:
        picker.join(name)
        picker.tell(name, range(units))
    links, stopped_at = Links(picker, upload, download), 0.0
    while picker.left and links.now < 600:
        links.step()
        if picker.left <= stop_at and not links.stopped:
            links.stopped, stopped_at = next(iter(upload)), links.now
    assert not picker.left
    return stopped_at, links.now


@given(st.lists(RATES, min_size=2, max_size=4), RATES, st.integers(0, 48), st.integers(0, 999))
@settings(max_examples=25, deadline=None)
def test_a_source_that_is_stopped_costs_little(rates: list[float], download: float, stop_at: int, seed: int) -> None:
    upload = {f"source {number}": rate for number, rate in enumerate(rates)}
    stopped_at, ended_at = pulled_s(48, upload, download, stop_at, seed)
    without = min(download, sum(rates[1:]))
    assert ended_at - stopped_at - stop_at * MIB / without < COST_S
