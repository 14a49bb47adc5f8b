#!/usr/bin/env python3
"""The container's health check: whether `/v1/models` is answered, with the key that the container has."""

import json
import os
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path

KEYS = ("TWD_TOKEN", "TWD_EDGE_TOKEN", "TIGHTWAD_TOKEN", "TIGHTWAD_PROXY_TOKEN")
HOME = Path(os.environ.get("TWD_HOME") or "/data")
ANSWER_S = 8.0
LOOPBACK = ssl.create_default_context()
LOOPBACK.check_hostname, LOOPBACK.verify_mode = False, ssl.CERT_NONE


def key() -> str:
    """The key: from the environment, else the one that was drawn."""
    given = next((os.environ[name] for name in KEYS if os.environ.get(name)), "")
    drawn = HOME / "credentials" / "edge.token"
    return given or (drawn.read_text().strip() if drawn.is_file() else "")


def address() -> str:
    """Where the API is: as the running twd recorded it, which knows the settings; else by the environment."""
    port = os.environ.get("TWD_EDGE_PORT") or os.environ.get("TIGHTWAD_PORT") or "8088"
    try:
        recorded = json.loads((HOME / "run" / "instance.json").read_bytes())["addresses"]["api"]
    except (OSError, ValueError, KeyError):
        recorded = ""
    return str(recorded) or f"http://127.0.0.1:{port}"


def main() -> int:
    """Ask; the exit code is 0 when all is well, and the reason is printed when not."""
    url = f"{address()}/v1/models"
    headers = {"Authorization": f"Bearer {key()}"} if key() else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=ANSWER_S, context=LOOPBACK):
            return 0
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):  # it answers; whose key it wants stands in settings or in keys.json
            return 0
        print(f"{url}: {error}")
    except OSError as error:
        print(f"{url}: {error}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
