"""Secrets of a service: one file for each, which only the service manager reads, and hands to the service."""

from collections.abc import Mapping
from pathlib import Path

from twd.private_file import write_private
from twd.settings.credentials import setting_paths


def known_names() -> set[str]:
    """The settings that a file can give."""
    return {".".join(path) for path in setting_paths()}


def kept_secrets(folder: Path) -> dict[str, Path]:
    """Return the files of a folder that are named after settings."""
    names = known_names()
    return {file.name: file for file in sorted(folder.glob("*")) if file.name in names and file.is_file()}


def keep_secrets(folder: Path, secrets: Mapping[str, str]) -> list[str]:
    """Write secrets that are new or have changed; return what was done, without any secret."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    folder.chmod(0o700)
    done = []
    for name, text in sorted(secrets.items()):
        file = folder / name
        known = file.read_text() if file.exists() else None
        if known != text:
            write_private(file, text.encode())
            done.append(f"{file} {'written' if known is None else 'renewed'}")
    return done
