"""What the broker's machine does for the others: a bucket for claims, and the service that lets machines in."""

import asyncio

from twd.bus.followed_leases import make_claims
from twd.bus.permissions import ADMIN
from twd.kit.clock import Clock
from twd.kit.connect import connect
from twd.kit.ids import Ids
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S, ServiceContext
from twd.membership.service import MembershipService
from twd.settings.model import Settings
from twd.wire.base import NodeId


async def make_bucket_for_claims(settings: Settings, node: NodeId) -> None:
    """Make the bucket that no role may make, or find it made."""
    bus = await connect(settings, ADMIN, node)
    try:
        await make_claims(bus, LEASE_BUCKET, LEASE_TTL_S)
    finally:
        await bus.close()


async def run_membership(settings: Settings, node: NodeId, clock: Clock) -> None:
    """Run the service until it is cancelled; raises its fault."""
    bus = await connect(settings, MembershipService.name, node)
    try:
        service = MembershipService(ServiceContext(bus=bus, node=node, clock=clock, ids=Ids()), settings)
        try:
            await service.start()
            await service.ended.wait()
        finally:
            await asyncio.shield(service.stop())
        if service.fault is not None:
            raise service.fault
    finally:
        await asyncio.shield(bus.close())
