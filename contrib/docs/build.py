#!/usr/bin/env python3
"""Builds static pages of docs/ and of the pages beside it, searchable without a network: `make docs`.

python contrib/docs/build.py [FOLDER]      FOLDER: build/docs if none is given
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "index.md": "README.md",
    "settings.md": "twd/settings/SETTINGS.md",
    "security.md": "SECURITY.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
"""Pages that lie elsewhere, by the names that they get."""
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
OUTSIDE = re.compile(r"[a-z][a-z+.-]*:", re.IGNORECASE)
NAV = """
  - Home: index.md
  - Guide:
      - The first hour: first-hour.md
      - Two machines: two-machines.md
      - Old hardware: old-hardware.md
      - Models: models.md
      - Security: security.md
      - Findings: findings.md
  - Reference:
      - Commands: commands.md
      - Settings: settings.md
      - Events: events.md
      - Glossary: glossary.md
      - Changes: changelog.md
  - Inside:
      - Architecture: architecture.md
      - Exactness: exactness.md
      - The ring: ring.md
      - Adding a service: adding-a-service.md
      - Adding an architecture: adding-an-architecture.md
      - Following llama.cpp: following-llama-cpp.md
      - Dependencies: dependencies.md
      - Contributing: contributing.md
"""
CONFIG = """site_name: twd
docs_dir: {pages}
site_dir: {site}
use_directory_urls: false
theme: {{name: readthedocs, highlightjs: false}}
plugins: [search]
extra_css: [wide.css]
markdown_extensions:
  - tables
  - fenced_code
  - toc:
      slugify: !!python/name:slugs.heading
validation: {{nav: {{omitted_files: info}}, links: {{anchors: warn}}}}
nav:{nav}"""
STYLE = ".wy-nav-content { max-width: 68rem; }\n"
"""Wide enough for a command with its comment."""
SLUGS = '''
import re


def heading(text, separator):
    """As the rule for links in this repository names headings."""
    return re.sub(r"[^\\w\\- ]", "", text.lower()).replace(" ", "-")
'''


def sources() -> dict[str, Path]:
    """Every page by its name."""
    own = {page.name: page for page in sorted((ROOT / "docs").glob("*.md"))}
    return own | {name: ROOT / path for name, path in PAGES.items()}


def rewritten(text: str, place: Path, names: dict[Path, str]) -> str:
    """A page whose links lead to pages; what is no page is named as the file that it is."""

    def link(found: re.Match[str]) -> str:
        words, path, heading = found[1], found[2], found[3] or ""
        if OUTSIDE.match(path) or not path:
            return found[0]
        target = (place.parent / path).resolve()
        if target in names:
            return f"[{words}]({names[target]}{heading})"
        return (
            words
            if words.startswith("`") or not target.is_relative_to(ROOT)
            else f"{words} (`{target.relative_to(ROOT)}`)"
        )

    return LINK.sub(link, text)


def main() -> int:
    """Build them; returns the exit code of the tool."""
    site = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "docs").absolute()
    names = {path.resolve(): name for name, path in sources().items()}
    with tempfile.TemporaryDirectory(prefix="twd-docs-") as folder:
        pages = Path(folder) / "pages"
        pages.mkdir()
        for name, path in sources().items():
            (pages / name).write_text(rewritten(path.read_text("utf-8"), path, names), "utf-8")
        (pages / "wide.css").write_text(STYLE)
        (Path(folder) / "slugs.py").write_text(SLUGS)
        config = Path(folder) / "mkdocs.yml"
        config.write_text(CONFIG.format(pages=pages, site=site, nav=NAV))
        shutil.rmtree(site, ignore_errors=True)
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--config-file", str(config)]
        code = subprocess.run(
            command, cwd=folder, env={"PYTHONPATH": folder, "PATH": "/usr/bin:/bin"}, check=False
        ).returncode
    if not code:
        print(f"docs: {site}/index.html; for the search: python -m http.server -d {site}")
    return code


if __name__ == "__main__":
    sys.exit(main())
