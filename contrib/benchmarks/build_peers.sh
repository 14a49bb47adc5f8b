#!/usr/bin/env bash
# Builds llama.cpp's own programs from the very source that the installed llama-cpp-python was built from, to measure
# twd against them: llama-server, llama-bench, llama-batched-bench, ggml-rpc-server.
#
# usage: contrib/benchmarks/build_peers.sh [CACHE_DIR]     (default: ~/.cache/twd/peers; prints the folder of programs)
#        KERNELS=1 contrib/benchmarks/build_peers.sh       llama-bench with our kernels (contrib/llama), beside the others
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/twd/peers}
python=${PYTHON:-$root/.venv/bin/python}
jobs=${JOBS:-$(getconf _NPROCESSORS_ONLN)}
programs=(llama-server llama-bench llama-batched-bench ggml-rpc-server)
ours=()
if [[ -n ${KERNELS:-} ]]; then
    programs=(llama-bench)
    ours=(-DCMAKE_PROJECT_ggml_INCLUDE="$root/contrib/llama/kernels.cmake")
fi

command -v cmake >/dev/null || { echo "cmake is needed; install it (or: pip install cmake)" >&2; exit 1; }
source=$(PYTHON=$python "$root/contrib/benchmarks/llama_source.sh" "$cache")
build=${source%/llama_cpp_python-*}/build${KERNELS:+-with-kernels}

generator=()
command -v ninja >/dev/null && generator=(-G Ninja)
plain=()
grep -qw amx_int8 /proc/cpuinfo && plain=(-DCMAKE_C_FLAGS=-mno-amx-int8 -DCMAKE_CXX_FLAGS=-mno-amx-int8) # as contrib/set_up.py
cmake -S "$source" -B "$build" "${generator[@]}" "${plain[@]}" "${ours[@]}" -DCMAKE_BUILD_TYPE=Release -DGGML_RPC=ON \
    -DLLAMA_BUILD_TOOLS=ON -DLLAMA_BUILD_SERVER=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
    -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_OPENSSL=OFF >&2
cmake --build "$build" --target "${programs[@]}" --parallel "$jobs" >&2

for program in "${programs[@]}"; do
    [[ -x $build/bin/$program ]] || { echo "$program was not built; see the messages above" >&2; exit 1; }
done
echo "$build/bin"
