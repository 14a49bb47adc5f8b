"""What one decision of the picker costs: 40,000 MiB, 100 peers.  python picker.py"""

import json
import random
import statistics
import time

from twd.swarm.core import Picker

UNITS, PEERS, ROUNDS = 40_000, 100, 2_000


def main() -> None:
    """Sources with half of the units each; every unit that comes asks for the next decision."""
    chance = random.Random(1)
    one = Picker(UNITS, 1 << 20, range(UNITS), chance.randrange)
    for number in range(PEERS):
        one.join(str(number))
        one.tell(str(number), chance.sample(range(UNITS), UNITS // 2))
    now, spent, told = 0.0, [], []
    running = one.decide(now)
    for _ in range(ROUNDS):
        request = running.pop(chance.randrange(len(running)))
        for index in list(request.open):
            one.came(request, now + 0.01)
            one.got(index)
        one.over(request)
        began = time.thread_time()
        one.tell(str(chance.randrange(PEERS)), have=[chance.randrange(UNITS) for _ in range(8)])
        told.append(time.thread_time() - began)
        now += 0.01
        began = time.thread_time()
        made = one.decide(now)
        spent.append((time.thread_time() - began) / max(1, len(made)))
        running += made
    shown = {"decisions": len(spent), "units": UNITS, "peers": PEERS, "left": one.left}
    figures = {"median_ms": statistics.median(spent), "p99_ms": sorted(spent)[int(len(spent) * 0.99)]}
    news = {"news_median_ms": statistics.median(told)}
    print(json.dumps({**shown, **{name: round(value * 1000, 3) for name, value in {**figures, **news}.items()}}))


if __name__ == "__main__":
    main()
