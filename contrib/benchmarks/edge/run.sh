#!/usr/bin/env bash
# Compares what twd's edge adds with what LiteLLM's proxy and PyPI's tightwad add, over the same upstream.
#
# usage: contrib/benchmarks/edge/run.sh [options of compare.py]
#
# The others are installed once, as the lock files here pin them, below ~/.cache/twd/edge-bench ($TWD_BENCH_CACHE).
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
cache=${TWD_BENCH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/twd/edge-bench}
uv=${UV:-$root/.venv/bin/uv}

for name in litellm tightwad; do
    if ! cmp -s "$here/$name.txt" "$cache/$name/locked.txt"; then
        echo "installing $name" >&2
        "$uv" venv -q --clear -p 3.11 "$cache/$name" >&2
        "$uv" pip install -q --require-hashes -p "$cache/$name" -r "$here/$name.txt" >&2
        cp "$here/$name.txt" "$cache/$name/locked.txt"
    fi
done
exec "${PYTHON:-$root/.venv/bin/python}" "$here/compare.py" --litellm "$cache/litellm" --tightwad "$cache/tightwad" "$@"
