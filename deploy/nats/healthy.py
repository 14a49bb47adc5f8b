#!/usr/bin/env python3
"""Whether a service works, as a container's health check: healthy.py SERVICE

It looks for a lease that the service renewed lately, with the key of the `status` role; `broker` and `edge` are asked
over HTTP. The exit code is 0 when all is well, and the reason is printed when not.
"""

import json
import os
import subprocess
import sys
import urllib.request

PROBES = {"broker": "http://127.0.0.1:8222/healthz", "edge": "http://127.0.0.1:8088/healthz"}
WORKING = ("ready", "loading", "draining")


def answers(url: str) -> str:
    """What is wrong with an HTTP probe; nothing is the good answer."""
    try:
        with urllib.request.urlopen(url, timeout=3):
            return ""
    except OSError as error:
        return f"{url}: {error}"


def holds_lease(service: str) -> str:
    """What is wrong with a service by its lease; nothing is the good answer."""
    told = subprocess.run(["twd", "status", "--json"], capture_output=True, text=True, timeout=10, check=False)
    try:
        services = json.loads(told.stdout)["services"]
    except (ValueError, LookupError, TypeError):
        return told.stderr.strip() or "twd status says nothing"
    states = {one["state"] for one in services if one["service"] == service and one["node"] == os.uname().nodename}
    return "" if states & set(WORKING) else f"{service}: {', '.join(sorted(states)) or 'no lease'}"


def main(service: str) -> int:
    """Look, and say what is wrong."""
    wrong = answers(PROBES[service]) if service in PROBES else holds_lease(service)
    sys.stdout.write(f"{wrong}\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
