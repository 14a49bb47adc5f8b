#!/usr/bin/env bash
# Sends random graphs to the door of RPC workers (contrib/llama/graph_check.cpp) under AddressSanitizer.
#
# usage: contrib/fuzz/rpc/run.sh [COUNT] [SEED]     (default: 100000 1; builds ggml first, some minutes)
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
count=${1:-100000} seed=${2:-1} piece=20000
build=$("$here/../kernels/build.sh" fuzz_rpc)

# What is refused leaves the memory of its operation behind, so each piece is a process of its own.
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1
for ((done = 0; done < count; done += piece, ++seed)); do
    "$build/fuzz_rpc" "$seed" "$((count - done < piece ? count - done : piece))"
done
