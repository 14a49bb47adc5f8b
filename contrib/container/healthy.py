#!/usr/bin/env python3
"""The container's health check: whether `/v1/models` is answered, with the key that the container has."""

import os
import sys
import urllib.request
from pathlib import Path

KEYS = ("TWD_TOKEN", "TWD_EDGE_TOKEN", "TIGHTWAD_TOKEN", "TIGHTWAD_PROXY_TOKEN")
ANSWER_S = 8.0


def key() -> str:
    """The key: from the environment, else the one that was drawn."""
    given = next((os.environ[name] for name in KEYS if os.environ.get(name)), "")
    drawn = Path(os.environ.get("TWD_HOME", "/data")) / "credentials" / "edge.token"
    return given or (drawn.read_text().strip() if drawn.is_file() else "")


def main() -> int:
    """Ask; the exit code is 0 when all is well, and the reason is printed when not."""
    port = os.environ.get("TWD_EDGE_PORT") or os.environ.get("TIGHTWAD_PORT") or "8088"
    url = f"http://127.0.0.1:{port}/v1/models"
    headers = {"Authorization": f"Bearer {key()}"} if key() else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=ANSWER_S):
            return 0
    except OSError as error:
        print(f"{url}: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
