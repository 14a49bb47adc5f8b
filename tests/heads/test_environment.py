"""The training runs in an environment of its own, which has JAX and numpy, and not what twd needs."""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
INSTALLED = {"jax", "numpy"}
"""What contrib/heads/heads.txt brings."""


def imported_by(path: Path) -> set[str]:
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            from_folder = (ROOT / node.module.replace(".", "/")).is_dir()
            found |= {f"{node.module}.{name.name}" for name in node.names} if from_folder else {node.module}
    return found


def test_it_imports_nothing_else() -> None:
    waiting, seen, others = [ROOT / "contrib/heads/train.py"], set[Path](), set[str]()
    while waiting:
        path = waiting.pop()
        seen.add(path)
        for module in imported_by(path):
            own = ROOT / f"{module.replace('.', '/')}.py"
            if not own.exists():
                others.add(module.split(".")[0])
            elif own not in seen:
                waiting.append(own)
    assert len(seen) > 3
    assert others - set(sys.stdlib_module_names) <= INSTALLED
