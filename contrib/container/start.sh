#!/bin/sh
# What the container runs: `twd up`, open to other machines, with a key that is drawn at the first start.
#   docker run -p 8088:8088 -v twd:/data IMAGE            the demo's small model
#   ... -e TIGHTWAD_TARGET_URL=http://host:8080 ...       what the forerunner's variables name
#   ... -v ./twd.yaml:/etc/twd/twd.yaml:ro ...            whatever these settings say
set -eu
: "${TWD_HOME:=/data}" "${TWD_SETTINGS:=/etc/twd/twd.yaml}"
export TWD_HOME
[ -n "${TWD_EDGE_HOST:-}${TIGHTWAD_HOST:-}" ] || export TWD_EDGE_HOST=0.0.0.0
[ ! -s "$TWD_SETTINGS" ] || export TWD_CONFIG="$TWD_SETTINGS"

for folder in "$TWD_HOME" "$TWD_HOME/logs"; do
    if [ -e "$folder" ] && [ ! -w "$folder" ]; then
        echo "twd: user $(id -u) cannot write to $folder. Where it lies: chown $(id -u):$(id -g) FOLDER; or run as its" >&2
        echo "twd: owner: docker run -u UID:GID, docker compose with TWD_UID and TWD_GID" >&2
        exit 7
    fi
done

door_in_settings() {
    [ -n "${TWD_CONFIG:-}${TIGHTWAD_CONFIG:-}" ] && twd config show --changed --json 2> /dev/null |
        grep -Eq '"edge\.(token|allow_unauthenticated)"'
}

# A key of somebody's own wins; else one is drawn once, kept, and told in the log of that first start alone.
secrets=$TWD_HOME/credentials
key=${TWD_TOKEN:-}${TWD_EDGE_TOKEN:-}${TIGHTWAD_TOKEN:-}${TIGHTWAD_PROXY_TOKEN:-}
open=${TWD_EDGE_ALLOW_UNAUTHENTICATED:-}${TIGHTWAD_ALLOW_UNAUTHENTICATED:-}
if [ -z "$key$open" ] && ! door_in_settings; then
    if [ ! -s "$secrets/edge.token" ] && [ ! -e "$TWD_HOME/keys.json" ]; then
        (umask 077 && mkdir -p "$secrets" &&
            python3 -c 'import secrets; print(secrets.token_urlsafe(24))' > "$secrets/.drawn" &&
            mv "$secrets/.drawn" "$secrets/edge.token")
        echo "twd: a key was drawn for the API; it is told this once, and kept in $secrets/edge.token:"
        echo "twd:   Authorization: Bearer $(cat "$secrets/edge.token")"
    fi
    export CREDENTIALS_DIRECTORY="$secrets"
fi
[ $# -gt 0 ] && exec twd "$@"
[ -n "${TWD_CONFIG:-}${TIGHTWAD_CONFIG:-}${TIGHTWAD_TARGET_URL:-}${TWD_MODELS:-}${TWD_BACKENDS:-}" ] && exec twd up
exec twd up --demo
