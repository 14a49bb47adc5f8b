"""What is in no file of the repository: traces of a workplace, registries, leftovers."""

import re
import subprocess
from functools import cache

import pytest

from tests.rules.source import ROOT

FORBIDDEN = {
    "an absolute path of somebody's machine": r"(?<![\w.$}>-])/(home|root|Users|work|workspace)/(?!me\b|you\b)\w+",
    "a package registry's address": r"(index-url|find-links|extra-index-url)\s*[= ]\s*(https?|file):|pypi"
    + r"\.org/simple",
    "a leftover": r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b",
    "an issue's number": r"(?i)\bissue\s+#?\d+\b",
}
BINARY = (".png", ".gguf", ".ico", ".woff2")


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [
        name for name in listed.stdout.split("\0") if name and not name.endswith(BINARY) and (ROOT / name).is_file()
    ]


@cache
def texts() -> dict[str, str]:
    return {name: (ROOT / name).read_text("utf-8", errors="replace") for name in tracked()}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    found = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in texts().items()
        if pattern.search(text)
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found, "\n".join(found)
