#!/usr/bin/env bash
# Fetches, once, the source that the installed llama-cpp-python was built from; prints the folder of its llama.cpp.
#
# usage: contrib/benchmarks/llama_source.sh [CACHE_DIR]     (default: ~/.cache/twd/peers)
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/twd/peers}
python=${PYTHON:-$root/.venv/bin/python}
version=$("$python" -c 'from importlib.metadata import version; print(version("llama-cpp-python"))')
home=$cache/$version
source=$home/llama_cpp_python-$version/vendor/llama.cpp

if [[ ! -d $source ]]; then
    mkdir -p "$home"
    echo "fetching the source of llama-cpp-python $version" >&2
    "$python" -m pip download -q --no-deps --no-binary llama-cpp-python -d "$home" "llama-cpp-python==$version" >&2
    tar -xzf "$home/llama_cpp_python-$version.tar.gz" -C "$home"
fi
echo "$source"
