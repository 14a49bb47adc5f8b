#!/usr/bin/env bash
# Runs the suites of the client libraries against a running twd: real servers, real output, about 60 calls each.
#
# usage: contrib/clients/run.sh [URL] [SUITE...]     (default: http://127.0.0.1:8088, all of: openai litellm langchain
#                                                     anthropic node; start one with `twd up -d --demo`)
#
# TWD_CLIENTS_MODEL=NAME+gate asks another name than `default`.
# The clients are installed once, as the lock files here pin them, below $TWD_CLIENTS_CACHE (~/.cache/twd/clients).
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
url=${1:-http://127.0.0.1:8088}
shift || true
suites=("$@")
[[ ${#suites[@]} -gt 0 ]] || suites=(openai litellm langchain anthropic node)
cache=${TWD_CLIENTS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/twd/clients}
uv=${UV:-$root/.venv/bin/uv}

python_of() { # the interpreter of an environment that holds exactly what NAME.txt locks
    local venv=$cache/$1
    if ! cmp -s "$here/$1.txt" "$venv/locked.txt"; then
        echo "installing the clients of $1.txt" >&2
        "$uv" venv -q --clear -p 3.11 "$venv" >&2
        "$uv" pip install -q --require-hashes -p "$venv" -r "$here/$1.txt" >&2
        cp "$here/$1.txt" "$venv/locked.txt"
    fi
    echo "$venv/bin/python"
}

run_node() {
    local modules=$cache/node
    if ! cmp -s "$here/package-lock.json" "$modules/locked.json"; then
        echo "installing the Node client of package-lock.json" >&2
        mkdir -p "$modules"
        cp "$here"/{package.json,package-lock.json,.npmrc} "$modules"
        (cd "$modules" && npm ci --no-audit --no-fund --loglevel=error) >&2
        cp "$here/package-lock.json" "$modules/locked.json"
    fi
    cp "$here/openai_suite.mjs" "$modules"
    node "$modules/openai_suite.mjs" "$url"
}

run_suite() {
    case $1 in
        openai) "$(python_of openai)" "$here/openai_suite.py" "$url" ;;
        litellm | langchain | anthropic) "$(python_of others)" "$here/$1_suite.py" "$url" ;;
        node) run_node ;;
        *) echo "there is no suite $1; there are: openai litellm langchain anthropic node" >&2; return 2 ;;
    esac
}

curl -fsS "$url/readyz" >/dev/null || { echo "nothing answers at $url; start it with: twd up -d --demo" >&2; exit 1; }
failed=0
for suite in "${suites[@]}"; do run_suite "$suite" || failed=1; done
exit $failed
