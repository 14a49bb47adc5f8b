#!/usr/bin/env bash
# Throws random shapes at the kernels of contrib/llama under AddressSanitizer and UBSan.
#
# usage: contrib/fuzz/kernels/run.sh [COUNT] [SEED]     (default: 1000000 1)
exec "$(dirname "$0")/run_program.sh" fuzz_kernels "${1:-1000000}" "${2:-1}"
