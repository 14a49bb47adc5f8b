#!/bin/sh
# Installs twd and lends this machine to others, as a service: the agent alone. Options are those of install.sh.
# What lets it in is read from TWD_BUS_JOIN_FILE, a file with the line that `twd invite` printed on the other machine.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
"$here/install.sh" "$@"
case " $* " in *" --uninstall "* | *" --help "* | *" -h "*) exit 0 ;; esac
[ -n "${TWD_BUS_JOIN_FILE:-}${TWD_BUS_JOIN:-}${TWD_BUS_URL:-}" ] || {
    echo "install: which installation does this machine join? TWD_BUS_JOIN_FILE names what twd invite printed there" >&2
    exit 1
}
PATH=${TWD_BIN:-"$HOME/.local/bin:/usr/local/bin"}:$PATH
exec twd service install --agent
