"""`twd invite`: the line by which another machine joins the broker that runs here."""

import click

from twd.cli.common.api_address import running_settings
from twd.cli.common.context import CliContext
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.net.addresses import EVERYWHERE, bare_host, is_loopback, told_host
from twd.process.home import RunningInstance

BROKER = "broker"


@click.command()
@click.option("--host", default="", help="The name or address under which the other machine reaches this one.")
@click.pass_obj
def invite(ctx: CliContext, host: str) -> ExitCode:
    """Print a join string: address, certificate and token of the broker here. Whoever has it is let in."""
    from twd.bus.join import Join

    instance = _instance(ctx)
    listens = bare_host(running_settings(ctx).bus.host)
    if is_loopback(listens):
        text = f"the broker listens on {listens}, where other machines cannot reach it"
        raise CommandError(ExitCode.CONFIG, f"{text}. Set bus.host: 0.0.0.0 (TWD_BUS_HOST) and start twd again")
    join = Join(instance.bus_url, instance.bus_token, instance.bus_fingerprint)
    click.echo(join.as_text(host or told_host(listens)))
    click.echo("This line is a secret: it opens the bus. On the other machine, in TWD_BUS_JOIN or in a file:", err=True)
    click.echo("  TWD_BUS_JOIN_FILE=FILE twd run drafter --model FILE.gguf    also: twd up agent", err=True)
    if listens in EVERYWHERE and not host:
        click.echo("If it reaches this machine by another address, name that with --host.", err=True)
    return ExitCode.OK


def _instance(ctx: CliContext) -> RunningInstance:
    """What runs here, with a broker of its own."""
    outside = ctx.settings.bus.url
    instance = ctx.instance()
    if instance is None and not outside:
        raise CommandError(ExitCode.NOTHING_RUNS, f"nothing runs in {ctx.home.path}; `twd up` starts it")
    if instance is None or BROKER not in instance.processes:
        text = "the broker is another machine's: `twd invite` there prints its join string"
        raise CommandError(
            ExitCode.CONFIG, f"{text}; a broker that twd did not start has an address and keys of its own"
        )
    if not instance.bus_url:
        text = f"twd has just started in {ctx.home.path} ({instance.named()}); try again in a moment"
        raise CommandError(ExitCode.UNHEALTHY, text)
    return instance
