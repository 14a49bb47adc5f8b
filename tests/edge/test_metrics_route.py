"""GET /metrics: the metrics service's figures, behind the same door as everything else."""

from tests.edge.conftest import OpenHouse, ctx
from twd.kit.service import Effects, Reply, Service
from twd.wire.trace import MetricsReported, MetricsRequested

TEXT = 'twd_tokens_generated_total{model="ü"} 42.0\n'


class Counter(Service):
    """Shows one figure."""

    name = "metrics"
    reads = (MetricsRequested,)
    writes = (MetricsReported,)

    def on_metrics_requested(self, event: MetricsRequested, reply: Reply) -> Effects:
        reply(MetricsReported(text=TEXT))
        return None


async def test_figures_for_prometheus(open_house: OpenHouse) -> None:
    house = await open_house(token="secret")
    url = house.edge.url + "/metrics"
    assert (await house.http.get(url)).status == 401
    headers = {"Authorization": "Bearer secret"}
    missing = await house.http.get(url, headers=headers)
    assert missing.status == 503
    assert "twd run metrics" in await missing.text()
    counter = Counter(ctx(house.broker, 8))
    await counter.start()
    answer = await house.http.get(url, headers=headers)
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert await answer.text() == TEXT
    await counter.stop()
