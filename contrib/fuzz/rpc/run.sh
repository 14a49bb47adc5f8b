#!/usr/bin/env bash
# Sends random graphs to the door of RPC workers (contrib/llama/graph_check.cpp) under AddressSanitizer.
#
# usage: contrib/fuzz/rpc/run.sh [COUNT] [SEED]     (default: 100000 1)
exec "$(dirname "$0")/../kernels/run_program.sh" fuzz_rpc "${1:-100000}" "${2:-1}"
