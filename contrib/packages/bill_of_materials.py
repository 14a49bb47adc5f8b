#!/usr/bin/env python3
"""Writes what twd is made of as a bill of materials (CycloneDX 1.5, JSON), from the lock files; always the same bytes.

python contrib/packages/bill_of_materials.py > twd.cdx.json
"""

import json
import re
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LOCKS = {"requirements/base.txt": "required", "requirements/model.txt": "optional"}
"""What runs, and the demo's model; what only builds or tests twd is no part of it."""
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)([^\\\n]*)", re.MULTILINE)
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
LICENSES = {"twd": "Apache-2.0"}


def version() -> str:
    """The version of twd."""
    found = re.search(r'__version__ = "([^"]+)"', (ROOT / "twd/__init__.py").read_text("utf-8"))
    assert found is not None
    return found[1]


def components() -> Iterator[dict[str, Any]]:
    """Every package of the lock files, with the checksums of its files."""
    for lock, scope in LOCKS.items():
        text = (ROOT / lock).read_text("utf-8")
        places = [*PINNED.finditer(text)]
        for number, place in enumerate(places):
            end = places[number + 1].start() if number + 1 < len(places) else len(text)
            yield component(place, HASH.findall(text[place.start() : end]), scope)


def component(place: "re.Match[str]", hashes: list[str], scope: str) -> dict[str, Any]:
    """One package."""
    name, number, marker = place[1].lower(), place[2], place[3].strip(" ;")
    purl = f"pkg:pypi/{name}@{number}"
    properties = [{"name": "twd:where", "value": marker}] if marker else []
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": number,
        "scope": scope,
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": one} for one in sorted(hashes)],
        **({"properties": properties} if properties else {}),
    }


def document() -> dict[str, Any]:
    """The whole bill. Its serial number follows from what it lists, so that equal lists are equal files."""
    parts = sorted(components(), key=lambda part: str(part["purl"]))
    own = f"pkg:pypi/twd@{version()}"
    listed = json.dumps([own, *parts], sort_keys=True)
    main = {"type": "application", "bom-ref": own, "name": "twd", "version": version(), "purl": own}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, listed)}",
        "version": 1,
        "metadata": {"component": {**main, "licenses": [{"license": {"id": LICENSES["twd"]}}]}},
        "components": parts,
        "dependencies": [{"ref": own, "dependsOn": [part["bom-ref"] for part in parts if part["scope"] == "required"]}],
    }


def main() -> None:
    """Print it."""
    json.dump(document(), sys.stdout, indent=1, sort_keys=True)
    print()


if __name__ == "__main__":
    main()
