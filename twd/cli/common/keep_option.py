"""`--keep`: how many versions of twd stay on a machine."""

from typing import Final

import click

from twd.setup.versions.folder import KEEP

KEPT_MAX: Final = 100

KEEP_OPTION: Final = click.option(
    "--keep",
    default=KEEP,
    show_default=True,
    type=click.IntRange(KEEP, KEPT_MAX),
    metavar="NUMBER",
    help="How many versions stay: the one in use, the one before it, and then the newest others. One that a process "
    "runs from stays, too.",
)
