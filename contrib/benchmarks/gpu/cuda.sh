#!/usr/bin/env bash
# Builds llama.cpp's CUDA backend from the very source that the installed llama-cpp-python was built from, with NVIDIA's
# compiler from PyPI: neither a card nor a CUDA toolkit is needed here. The engine that is here stays as it is: a process
# that has GGML_BACKEND_PATH loads the backend as well, and so does llama-server where `--device CUDA0` is given.
#
# usage: contrib/benchmarks/gpu/cuda.sh [ARCHITECTURES] [CACHE_DIR]     (default: native, ~/.cache/twd/peers; prints the file)
#        contrib/benchmarks/gpu/cuda.sh 90       for an H100 or H200 elsewhere, in twenty minutes on two cores
# Where it runs, libcuda.so.1 comes with the driver, libcudart.so.13 and libcublas.so.13 with a toolkit or from PyPI.
set -euo pipefail

root=$(cd "$(dirname "$0")/../../.." && pwd)
architectures=${1:-native}
cache=${2:-${XDG_CACHE_HOME:-$HOME/.cache}/twd/peers}
python=${PYTHON:-$root/.venv/bin/python}
version=$("$python" -c 'from importlib.metadata import version; print(version("llama-cpp-python"))')
home=$cache/$version
build=$home/build-cuda-$architectures
backend=$build/bin/libggml-cuda.so
[[ -f $backend ]] && { echo "$backend"; exit 0; }

compiler=$home/cuda-compiler
if [[ ! -x $compiler/bin/python ]]; then
    echo "fetching NVIDIA's compiler" >&2
    "$python" -m venv "$compiler" >&2
    "$compiler/bin/pip" install -q 'cuda-toolkit[nvcc,cudart,cublas,cccl,crt,nvvm]==13.0.*' >&2
fi
toolkit=$("$compiler/bin/python" -c 'import nvidia.cu13 as found; print(list(found.__path__)[0])')
for name in libcudart libcublas libcublasLt; do
    ln -sf "$name.so.13" "$toolkit/lib/$name.so"
done
[[ -e $toolkit/lib64 ]] || ln -s lib "$toolkit/lib64"

# The driver's library is linked by name alone; its functions are found where it is loaded.
driver=$build/driver
mkdir -p "$driver"
echo 'void a_driver_is_where_the_card_is(void) {}' |
    cc -x c - -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$driver/libcuda.so"

source=$(PYTHON=$python "$root/contrib/benchmarks/llama_source.sh" "$cache")
"$root/contrib/benchmarks/gpu/backend.sh" cuda "$build" "$source" -DGGML_CUDA_NCCL=OFF \
    -DCMAKE_CUDA_ARCHITECTURES="$architectures" -DCMAKE_CUDA_COMPILER="$toolkit/bin/nvcc" -DCUDAToolkit_ROOT="$toolkit" \
    -DCUDA_cuda_driver_LIBRARY="$driver/libcuda.so" -DCMAKE_MODULE_LINKER_FLAGS=-Wl,--no-as-needed
