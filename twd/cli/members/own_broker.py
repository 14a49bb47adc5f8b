"""What commands about members need: the installation whose broker is on this machine."""

from twd.bus.address import BusAddress
from twd.cli.common.api_address import running_settings
from twd.cli.common.context import CliContext
from twd.kit.connect import address_of
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.membership.store import MemberStore
from twd.net.addresses import is_loopback
from twd.process.home import RunningInstance

BROKER = "broker"


def own_store(ctx: CliContext) -> MemberStore:
    """Return the members of the installation here. Raises CommandError where the broker is another machine's."""
    if ctx.settings.bus.url:
        text = f"the broker is elsewhere, at {address_of(ctx.settings.bus).shown}: run this on its machine"
        raise CommandError(
            ExitCode.CONFIG, f"{text}; a broker that twd did not start has keys of its own (deploy/nats)"
        )
    return MemberStore(ctx.home.path)


def running_broker(ctx: CliContext) -> RunningInstance | None:
    """Return the running installation, if its broker lets other machines in."""
    instance = ctx.instance()
    return instance if instance and instance.bus_keys and BROKER in instance.processes else None


def needed_broker(ctx: CliContext) -> RunningInstance:
    """Return the running installation; raises CommandError, which says what to do, where none lets machines in."""
    instance = ctx.instance()
    if instance is None:
        raise CommandError(ExitCode.NOTHING_RUNS, f"nothing runs in {ctx.home.path}; `twd up` starts it")
    host = running_settings(ctx).bus.host
    if is_loopback(host):
        text = f"the broker listens on {host}, where other machines cannot reach it"
        raise CommandError(ExitCode.CONFIG, f"{text}. Set bus.host: 0.0.0.0 (TWD_BUS_HOST) and start twd again")
    found = running_broker(ctx)
    if found is None or not found.bus_url:
        text = f"twd has just started in {ctx.home.path} ({instance.named()}); try again in a moment"
        raise CommandError(ExitCode.UNHEALTHY, text)
    return found


def broker_address(ctx: CliContext) -> BusAddress:
    """Return the running broker's address."""
    return address_of(ctx.with_bus().bus, "supervisor")
