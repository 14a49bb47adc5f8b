#!/usr/bin/env bash
# Throws random shapes at the kernels of contrib/llama under AddressSanitizer and UBSan.
#
# usage: contrib/fuzz/kernels/run.sh [COUNT] [SEED]     (default: 1000000 1; builds ggml first, some minutes)
#
# LLAMA names llama.cpp's source; else it is that of contrib/benchmarks/build_peers.sh, fetched if need be.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
count=${1:-1000000} seed=${2:-1} piece=20000
build=$("$here/build.sh" fuzz_kernels)

# What is refused leaves the memory of its operation behind, so each piece is a process of its own.
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1
for ((done = 0; done < count; done += piece, ++seed)); do
    "$build/fuzz_kernels" "$seed" "$((count - done < piece ? count - done : piece))"
done
