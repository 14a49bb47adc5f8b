"""Where models lie on this machine: our folders, and those of other programs."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from twd.cli.common.context import CliContext
from twd.settings.paths import path_of

if TYPE_CHECKING:
    from twd.models.stores import ModelStore


def local_stores(ctx: CliContext) -> "list[ModelStore]":
    """The folders with models on this machine, those of other programs, too."""
    from twd.models.stores import stores_here

    own = [ctx.home.models, *(path_of(one) for one in ctx.settings.agent.model_dirs)]
    return stores_here(os.environ, Path.home(), own)
