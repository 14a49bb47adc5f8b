"""`twd pull --list`: the names of the catalogue, and the models of a repository."""

from typing import TYPE_CHECKING

import click
import msgspec

from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode

if TYPE_CHECKING:
    from twd.models.environment import HubEnvironment
    from twd.models.spec import Spec


def print_catalogue(as_json: bool) -> None:
    """All names, with the SPEC behind each."""
    from twd.kit.terminal import show, table
    from twd.models.catalogue import CATALOGUE

    if as_json:
        click.echo(msgspec.json.encode([{"name": name, "spec": spec} for name, spec in CATALOGUE.items()]).decode())
        return
    rows = table("name", "on Hugging Face")
    for name, spec in CATALOGUE.items():
        rows.add_row(name, spec)
    show(rows)


async def print_repository(spec: "Spec", environment: "HubEnvironment", as_json: bool) -> ExitCode:
    """The models of a repository with their sizes."""
    from twd.models.hub import client_for
    from twd.models.huggingface import HuggingFace
    from twd.models.listing import models_in
    from twd.models.spec import HubFile, HubQuant

    if not isinstance(spec, HubFile | HubQuant):
        raise CommandError(ExitCode.USAGE, "only repositories on Hugging Face can be listed: twd pull --list org/repo")
    client = client_for(spec, environment)
    try:
        commit, entries = await HuggingFace(client).listing(spec.repo, spec.revision)
    finally:
        await client.close()
    models = {path: (len(files), sum(one.bytes for one in files)) for path, files in models_in(entries).items()}
    if as_json:
        told = [{"spec": f"{spec.repo}/{path}", "files": n, "size_bytes": size} for path, (n, size) in models.items()]
        click.echo(msgspec.json.encode({"repo": spec.repo, "commit": commit, "models": told}).decode())
        return ExitCode.OK
    _show_models(spec.repo, models)
    return ExitCode.OK


def _show_models(repo: str, models: dict[str, tuple[int, int]]) -> None:
    from twd.engine.host_memory.limits import gib
    from twd.kit.terminal import show, table

    rows = table("SPEC", "files", "size")
    for path, (number, size) in models.items():
        rows.add_row(f"{repo}/{path}", str(number), gib(size))
    show(rows)
