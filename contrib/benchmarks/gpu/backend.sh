#!/usr/bin/env bash
# Builds one backend of llama.cpp as a library of its own, from the source that the installed llama-cpp-python was built
# from; prints its file. A process that has the file as GGML_BACKEND_PATH loads it beside the engine that is here.
#
# usage: backend.sh NAME BUILD_FOLDER SOURCE [CMAKE_OPTION...]     (cuda.sh and llvmpipe.sh call it)
set -euo pipefail

name=$1 build=$2 source=$3
shift 3
backend=$build/bin/libggml-$name.so
generator=()
command -v ninja >/dev/null && generator=(-G Ninja)
cmake -S "$source" -B "$build" "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DGGML_BACKEND_DL=ON \
    "-DGGML_${name^^}=ON" -DGGML_CPU=OFF -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_TOOLS=OFF \
    -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_APP=OFF "$@" >&2
cmake --build "$build" --target "ggml-$name" --parallel "${JOBS:-$(getconf _NPROCESSORS_ONLN)}" >&2
[[ -f $backend ]] || { echo "the backend was not built; see the messages above" >&2; exit 1; }
echo "$backend"
