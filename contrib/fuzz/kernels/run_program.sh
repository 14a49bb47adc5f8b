#!/usr/bin/env bash
# Builds ggml with our kernels and door under AddressSanitizer (some minutes at first), and runs a program with it.
#
# usage: contrib/fuzz/kernels/run_program.sh fuzz_kernels|fuzz_rpc COUNT SEED
#
# LLAMA names llama.cpp's source; else it is that of contrib/benchmarks/llama_source.sh.
set -euo pipefail

program=$1 count=$2 seed=$3 piece=20000
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/twd
python=${PYTHON:-$root/.venv/bin/python}
source=${LLAMA:-$(PYTHON=$python "$root/contrib/benchmarks/llama_source.sh" "$cache/peers")}

plain=()
grep -qw amx_int8 /proc/cpuinfo && plain=(-DCMAKE_C_FLAGS=-mno-amx-int8 -DCMAKE_CXX_FLAGS=-mno-amx-int8) # as contrib/set_up.py
cmake -S "$here" -B "$cache/fuzz-kernels" "${plain[@]}" -DLLAMA="$source" -DCMAKE_BUILD_TYPE=RelWithDebInfo >&2
cmake --build "$cache/fuzz-kernels" --target "$program" --parallel >&2

# What is refused leaves the memory of its operation behind, so each piece is a process of its own.
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1
for ((done = 0; done < count; done += piece, ++seed)); do
    "$cache/fuzz-kernels/$program" "$seed" "$((count - done < piece ? count - done : piece))"
done
