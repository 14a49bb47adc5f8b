#!/bin/sh
# Installs twd and starts it as a service: this machine serves. Options are those of install.sh.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
"$here/install.sh" "$@"
case " $* " in *" --uninstall "* | *" --help "* | *" -h "*) exit 0 ;; esac
PATH=${TWD_BIN:-"$HOME/.local/bin:/usr/local/bin"}:$PATH
exec twd service install
