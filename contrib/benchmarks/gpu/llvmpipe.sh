#!/usr/bin/env bash
# A card without a card: Mesa's llvmpipe computes Vulkan on the processor. Installs it, and builds llama.cpp's Vulkan
# backend once, from the very source that the installed llama-cpp-python was built from. The engine that is here stays as
# it is: a process that has GGML_BACKEND_PATH loads the backend as well.
#
# usage: contrib/benchmarks/gpu/llvmpipe.sh [CACHE_DIR]     (default: ~/.cache/twd/peers; prints the file of the backend)
#        JOBS=1 contrib/benchmarks/gpu/llvmpipe.sh          how many compilers at once
set -euo pipefail

root=$(cd "$(dirname "$0")/../../.." && pwd)
cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/twd/peers}
python=${PYTHON:-$root/.venv/bin/python}
version=$("$python" -c 'from importlib.metadata import version; print(version("llama-cpp-python"))')
home=$cache/$version
build=$home/build-vulkan
backend=$build/bin/libggml-vulkan.so
headers=$home/vulkan-headers
ready=$build/kernels-compiled # the tests look for it, too
[[ -f $backend && -f $ready ]] && { echo "$backend"; exit 0; }

# Debian 12: its own Mesa crashes, and its headers are too old for llama.cpp. Mesa comes from backports, the headers from
# the next Debian, and those are only unpacked.
needed=(glslc spirv-headers libvulkan-dev mesa-vulkan-drivers)
packages() { apt-get -qq -y --no-install-recommends "$@" >&2; }
codename() { (. /etc/os-release && echo "${VERSION_CODENAME:-}"); }

install() {
    command -v apt-get >/dev/null || { echo "install ${needed[*]} and run this again" >&2; exit 1; }
    [[ $EUID -eq 0 ]] || { echo "as root: apt-get install ${needed[*]}; then run this again" >&2; exit 1; }
    export DEBIAN_FRONTEND=noninteractive
    local from=()
    if [[ $(codename) == bookworm ]]; then
        echo "deb http://deb.debian.org/debian bookworm-backports main" >/etc/apt/sources.list.d/bookworm-backports.list
        from=(-t bookworm-backports)
    fi
    apt-get -qq update >&2
    packages install "${from[@]}" "${needed[@]}"
}

newer_headers() {
    [[ $(codename) == bookworm && ! -d $headers/usr ]] || return 0
    local apart
    apart=$(mktemp -d)
    mkdir -p "$apart/lists/partial" "$apart/cache/archives/partial" "$headers"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main" >"$apart/list"
    local only=(-o "Dir::Etc::sourcelist=$apart/list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::Cache=$apart/cache"
        -o "Dir::State::lists=$apart/lists" -o APT::Sandbox::User=root)
    apt-get -qq "${only[@]}" update >&2
    (cd "$apart" && apt-get -qq "${only[@]}" download libvulkan-dev spirv-headers >&2)
    for package in "$apart"/*.deb; do
        dpkg-deb -x "$package" "$headers"
    done
    rm -r "$apart"
}

dpkg -s "${needed[@]}" >/dev/null 2>&1 || install
newer_headers
source=$(PYTHON=$python "$root/contrib/benchmarks/llama_source.sh" "$cache")

options=()
[[ -d $headers/usr ]] && options=(-DVulkan_INCLUDE_DIR="$headers/usr/include" -DCMAKE_PREFIX_PATH="$headers/usr")
"$root/contrib/benchmarks/gpu/backend.sh" vulkan "$build" "$source" "${options[@]}" >/dev/null

# llvmpipe compiles kernels when they are used first, some for a minute. Mesa keeps them on disk.
echo "compiling kernels: some minutes, this once" >&2
driver=$(ls /usr/share/vulkan/icd.d/lvp_icd*.json | head -n 1)
(cd "$root" && VK_DRIVER_FILES=$driver VK_ICD_FILENAMES=$driver GGML_VK_VISIBLE_DEVICES=0 GGML_BACKEND_PATH=$backend \
    "$python" -m pytest -q -p no:cacheprovider tests/engine/cards/on_a_card.py >&2)
touch "$ready"
echo "$backend"
