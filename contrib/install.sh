#!/bin/sh
# Installs twd from this checkout, or from a folder of packages without a network: each version in a folder of its own.
#   contrib/install.sh [--wheels DIR] [--prefix DIR] [--bin DIR] [--backend B] [--uninstall]
# Again: what is there already stays. It needs Python 3.11 or later; from a checkout a C++ compiler, too.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
wheels=''
previous=''
for word in "$@"; do
    [ "$previous" = --wheels ] && wheels=$word
    case $word in --wheels=*) wheels=${word#--wheels=} ;; esac
    previous=$word
done

python=''
for name in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$name
        break
    fi
done
[ -n "$python" ] || { echo "install: Python 3.11 or later is needed; name it with PYTHON=..." >&2; exit 1; }

# The installer is a part of twd; Python reads it out of the package as it is.
if [ -f "$here/../pyproject.toml" ] && [ -d "$here/../twd" ]; then
    code=$(CDPATH='' cd -- "$here/.." && pwd)
else
    code=''
    for file in "${wheels:-$here}"/twd-*-py3-none-any.whl; do code=$file; done
    [ -f "$code" ] || { echo "install: neither a checkout nor a twd-VERSION-py3-none-any.whl is here; give --wheels DIR" >&2; exit 1; }
    [ -n "$wheels" ] || set -- --wheels "$here" "$@"
fi
PYTHONPATH=$code PYTHONDONTWRITEBYTECODE=1 exec "$python" -m twd.setup.versions.first_install "$@"
