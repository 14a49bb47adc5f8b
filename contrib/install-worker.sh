#!/bin/sh
# Installs twd and lends this machine to others, as a service: the agent alone. Options are those of install.sh.
# TWD_JOIN_TOKEN_FILE names a file with what `twd token add` printed on the other machine; a machine that joined already
# needs none.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
"$here/install.sh" "$@"
case " $* " in *" --uninstall "* | *" --help "* | *" -h "*) exit 0 ;; esac
PATH=${TWD_BIN:-"$HOME/.local/bin:/usr/local/bin"}:$PATH
[ "$(id -u)" != 0 ] || export TWD_HOME="${TWD_HOME:-/var/lib/twd}"
[ -z "${TWD_JOIN_TOKEN_FILE:-}" ] || twd join --token-file "$TWD_JOIN_TOKEN_FILE"
[ -z "${TWD_HOME:-}" ] || ! id twd >/dev/null 2>&1 || chown -R twd: "$TWD_HOME"
exec twd service install --agent
