"""Changes the members, and lets a running broker take the change in."""

import asyncio
from collections.abc import Callable

from twd.cli.common.context import CliContext
from twd.cli.members.own_broker import broker_address, running_broker
from twd.membership.core import Members
from twd.membership.reload import reload_users
from twd.membership.store import MemberStore


def change(ctx: CliContext, store: MemberStore, decide: Callable[[Members], Members]) -> Members:
    """Change the members; on return a running broker has taken it in."""
    members = store.change(decide)
    if running_broker(ctx) is not None:
        asyncio.run(reload_users(store, broker_address(ctx)))
    return members
