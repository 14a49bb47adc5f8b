"""The pages: what is generated is current, every command in them is one, and every link leads to a page."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest

from tests.readme.printed import twd_arguments
from tests.rules.source import ROOT
from twd.cli.app import COMMANDS, app

WRITTEN = ("first-hour.md", "old-hardware.md", "findings.md")
COMMAND = re.compile(r"(?:^    |`)((?:[A-Z_]+=\S+ )*twd [^`#\n]+)", re.MULTILINE)


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "contrib/docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, "contrib/docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout}run contrib/docs/generate.py"


def test_every_command_has_its_part() -> None:
    page = (ROOT / "docs/commands.md").read_text("utf-8")
    assert set(re.findall(r"^## twd (\S+)$", page, re.MULTILINE)) == set(COMMANDS)


def commands(name: str) -> list[str]:
    return [found.strip() for found in COMMAND.findall((ROOT / "docs" / name).read_text("utf-8"))]


@pytest.mark.parametrize("command", sorted({one for name in WRITTEN for one in commands(name)}))
def test_every_command_in_the_pages_is_one(command: str) -> None:
    arguments = twd_arguments(re.split(r" > | \| |; | && ", command)[0])
    assert arguments is not None
    found: click.Command | None = app
    while isinstance(found, click.Group) and arguments and not arguments[0].startswith("-"):
        found = found.get_command(click.Context(found), arguments.pop(0))
        assert found is not None, command
    if isinstance(found, click.Command) and not isinstance(found, click.Group):
        problem = ""
        try:
            found.make_context("twd", [*arguments])
        except click.BadParameter as error:  # FILE stands for one, and a command may be named without it
            problem = error.format_message()
        assert not problem or problem.startswith("Missing") or "does not exist" in problem


def test_every_page_has_a_place_and_its_links_lead_to_pages(tmp_path: Path) -> None:
    build = script("build")
    pages = build.sources()
    listed = re.findall(r": (\S+\.md)$", build.NAV, re.MULTILINE)
    assert sorted(listed) == sorted(pages)
    names = {path.resolve(): name for name, path in pages.items()}
    for path in pages.values():
        text = build.rewritten(path.read_text("utf-8"), path, names)
        for _, target, _ in build.LINK.findall(text):
            assert not target or build.OUTSIDE.match(target) or target in pages, f"{path}: {target}"


def test_headings_are_named_as_our_links_name_them(tmp_path: Path) -> None:
    from tests.rules.test_links import anchor

    slugs: dict[str, object] = {}
    exec(script("build").SLUGS, slugs)
    for heading in ("A model on several machines", "Llama.cpp's own, and `ours`", "settings-wrong"):
        assert slugs["heading"](heading, "-") == anchor(heading)  # type: ignore[operator]
