#!/bin/sh
# Collects everything that a machine without network and compiler needs, for machines of this kind, in one folder:
#   contrib/packages/make_wheels.sh FOLDER [BACKEND]
# Then, there: contrib/install.sh --wheels FOLDER, or `twd upgrade --from FOLDER`. BACKEND is one of `twd engine install`.
set -eu
folder=$1 backend=${2:-portable}
root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
mkdir -p "$folder"
cmake=$(PYTHONPATH=$root "$python" -c '
import platform, sys
from twd.setup.engine import recipe
own = recipe.cmake_of(sys.argv[1], platform.machine())
print(";".join(recipe.llama_cmake(recipe.processor_features(), recipe.place_kernels(), own)))' "$backend")
CMAKE_ARGS=$cmake "$python" -m pip --disable-pip-version-check wheel --require-hashes --no-deps \
    --requirement "$root/requirements/base.txt" --wheel-dir "$folder"
(cd "$root" && "$python" -m hatchling build -t wheel -d "$(CDPATH='' cd -- "$folder" && pwd)")
"$python" "$root/contrib/packages/bill_of_materials.py" > "$folder/twd.cdx.json"
cp "$root/contrib/install.sh" "$folder/"
