#!/usr/bin/env bash
# Sends thousands of requests that /openapi.json allows, and as many that it forbids, to an edge: no answer may be a
# 5xx, or differ from what the document says; what it forbids must be refused.
#
# usage: contrib/fuzz/run.sh [options of schemathesis, such as --max-time 600 --seed 1]
#
# The edge is started with a scripted model behind it; $TWD_FUZZ_URL names another one. schemathesis is installed once,
# as the lock file here pins it, below $TWD_FUZZ_CACHE (~/.cache/twd/fuzz).
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${TWD_FUZZ_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/twd/fuzz}
uv=${UV:-$root/.venv/bin/uv}
port=${TWD_FUZZ_PORT:-18099}
url=${TWD_FUZZ_URL:-http://127.0.0.1:$port}

if ! cmp -s "$here/schemathesis.txt" "$cache/locked.txt"; then
    echo "installing schemathesis" >&2
    "$uv" venv -q --clear -p 3.11 "$cache" >&2
    "$uv" pip install -q --require-hashes -p "$cache" -r "$here/schemathesis.txt" >&2
    cp "$here/schemathesis.txt" "$cache/locked.txt"
fi

if [[ -z ${TWD_FUZZ_URL:-} ]]; then
    (cd "$root" && exec "${PYTHON:-.venv/bin/python}" -m contrib.fuzz.serve "$port") &
    trap 'kill $!' EXIT
    for _ in {1..100}; do curl -fs "$url/readyz" >/dev/null && break || sleep 0.2; done
fi

# /v1/twd/events never ends. A request that the document allows may still be refused: for a model that cannot do what
# it asks, or for fields that do not go together; so `positive_data_acceptance` does not apply.
cd "$cache"
"$cache/bin/st" run "$url/openapi.json" --exclude-path /v1/twd/events --exclude-checks positive_data_acceptance \
    --phases coverage,fuzzing --max-examples 1000 --continue-on-failure --request-timeout 30 "$@"
curl -fsS "$url/healthz" >/dev/null # it is still there
