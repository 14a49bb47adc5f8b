"""What the training needs of the target, as it was stored. The training's environment has numpy, and no gguf."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def read_target(path: Path) -> tuple[dict[str, Any], dict[str, Floats]]:
    """The numbers and the weights."""
    with np.load(path) as found:
        weights = {name: found[name] for name in found.files if name != "facts"}
        return json.loads(str(found["facts"])), weights
