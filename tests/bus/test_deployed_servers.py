"""TLS and the cluster of `deploy/nats`, with real servers on loopback."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.bus.deployed import Deployment, make
from tests.waiting import until, until_it_answers
from twd.bus.address import BusAddress, Tls
from twd.bus.base import BusError
from twd.bus.followed_leases import make_claims
from twd.bus.nats.bus import NatsBus
from twd.bus.permissions import ADMIN, REGISTRY
from twd.net.ports import free_ports
from twd.wire.failures import FailureCode

pytestmark = pytest.mark.nats


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path / "deployed")
    yield deployment
    deployment.end()


# -- TLS -------------------------------------------------------------------------------------------


async def test_a_client_that_trusts_another_authority_refuses_the_broker(
    deployment: Deployment, tmp_path: Path
) -> None:
    make(tmp_path / "other")
    port = deployment.start("nats-server.conf")
    for ca in (str(tmp_path / "other" / "certs" / "ca.pem"), ""):
        address = BusAddress(f"tls://localhost:{port}", tls=Tls(ca=ca))
        with pytest.raises(BusError, match=r"bus\.tls\.ca") as refused:
            await NatsBus.connect(address, wait_s=60)
        assert refused.value.code is FailureCode.UNAUTHENTICATED


async def test_a_certificate_for_another_name_is_refused(deployment: Deployment) -> None:
    port = deployment.start("nats-server.conf")
    good = deployment.address(ADMIN, port)
    tls = Tls(ca=good.tls.ca, hostname="elsewhere.example")
    with pytest.raises(BusError, match="cannot be trusted"):
        await NatsBus.connect(BusAddress(good.url, nkey_file=good.nkey_file, tls=tls), wait_s=60)


async def test_the_broker_hears_nobody_without_tls(deployment: Deployment) -> None:
    port = deployment.start("nats-server.conf")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await reader.readline()
    writer.write(b'CONNECT {"verbose":true}\r\nPING\r\n')
    async with asyncio.timeout(10):
        rest = await reader.read()
    assert b"PONG" not in rest
    writer.close()


async def test_a_broker_without_tls_gets_no_secret_from_a_client_that_wants_it() -> None:
    heard, all_of_it = bytearray(), asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"max_payload": 1000, "headers": true, "auth_required": true}\r\n')
        heard.extend(await reader.read())
        all_of_it.set()
        writer.close()

    stranger = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = stranger.sockets[0].getsockname()[1]
    with pytest.raises(BusError, match="offers no TLS"):
        await NatsBus.connect(BusAddress(f"tls://127.0.0.1:{port}", token="secret"), wait_s=60)
    await asyncio.wait_for(all_of_it.wait(), 60)
    assert heard == b""
    stranger.close()


# -- the cluster -----------------------------------------------------------------------------------


def start_cluster(deployment: Deployment) -> list[int]:
    routes = free_ports(3)
    ports = []
    for number, own in enumerate(routes, 1):
        others = ", ".join(f"tls://127.0.0.1:{port}" for port in routes if port != own)
        env = {"TWD_NATS_NAME": f"nats-{number}", "TWD_NATS_ROUTES": f"[{others}]"}
        ports.append(deployment.start("cluster.conf", "--cluster_listen", f"nats://127.0.0.1:{own}", env=env))
    return ports


async def in_the_end(attempt: Callable[[], Awaitable[bool]], timeout_s: float = 60.0) -> None:
    """Try until it works: the three need some seconds to agree on who leads, and again when one is gone."""

    async def it_worked() -> bool:
        try:
            return await attempt()
        except BusError:
            return False

    await until_it_answers(it_worked, "the cluster does it", timeout_s)


async def test_three_nodes_pass_messages_and_outlive_one(deployment: Deployment) -> None:
    ports = start_cluster(deployment)
    edge, speculator = await deployment.connect("edge", ports[0]), await deployment.connect("speculator", ports[1])
    await speculator.subscribe(
        "twd.v1.job.submitted.*.*.*.a", lambda message: speculator.publish(message.reply, b"taken"), queue="speculators"
    )

    coordinator = await deployment.connect("coordinator", ports[1])
    admin = await deployment.connect(ADMIN, ports[2])
    leases, claims = await edge.leases(REGISTRY, 60.0), await coordinator.leases(REGISTRY, 60.0)

    async def job_is_taken() -> bool:
        return await edge.request("twd.v1.job.submitted.edge.node1.x.a", b"{}", timeout_s=1) == b"taken"

    async def claims_are_kept_thrice() -> bool:
        return await make_claims(admin, REGISTRY, 60.0) == 3

    revisions: list[int] = []

    async def claim_is_made() -> bool:
        revision = await claims.create("coordinator.active.claim", b"1")
        revisions.extend([] if revision is None else [revision])
        return bool(revisions)

    await in_the_end(job_is_taken)
    await in_the_end(claims_are_kept_thrice)
    assert edge.clustered
    await in_the_end(claim_is_made)
    await admin.close()

    urls = ",".join(f"tls://127.0.0.1:{port}" for port in (ports[2], ports[0]))
    files = deployment.address(ADMIN, ports[2])
    admin = await NatsBus.connect(BusAddress(urls, nkey_file=files.nkey_file, tls=files.tls), name=f"{ADMIN}.node1")
    seen = await admin.leases(REGISTRY, 60.0)

    async def lease_is_seen() -> bool:
        await leases.put("edge.node1.x", b"2")
        return "edge.node1.x" in [entry.key for entry in await seen.entries()]

    deployment.processes[2].kill()
    await until(lambda: admin.stats.reconnects >= 1, timeout_s=30.0)
    await in_the_end(job_is_taken)
    await in_the_end(lease_is_seen)

    async def claim_is_renewed() -> bool:
        return await claims.update("coordinator.active.claim", b"2", revisions[-1]) is not None

    await in_the_end(claim_is_renewed)
    for bus in (edge, speculator, coordinator, admin):
        await bus.close()


async def test_who_brings_no_certificate_of_ours_is_no_part_of_the_cluster(deployment: Deployment) -> None:
    own, absent = free_ports(2)
    env = {"TWD_NATS_NAME": "nats-1", "TWD_NATS_ROUTES": f"[tls://127.0.0.1:{absent}]"}
    deployment.start("cluster.conf", "--cluster_listen", f"nats://127.0.0.1:{own}", env=env)
    trusting = ssl.create_default_context(cafile=str(deployment.folder / "certs" / "ca.pem"))
    reader, writer = await asyncio.open_connection("127.0.0.1", own)
    await reader.readline()

    async def join() -> None:
        await writer.start_tls(trusting, server_hostname="localhost")
        writer.write(b"PING\r\n")
        await reader.readexactly(1)

    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        await asyncio.wait_for(join(), 10)
    writer.close()
