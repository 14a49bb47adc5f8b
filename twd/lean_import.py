"""Parts of other people's packages, without what these pull in besides.

The start of a process that replaces a lost one is mostly imports, and tokenizers, templates and web clients that nobody
asks for here would be half of them.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType


@contextmanager
def bare(package: str) -> Iterator[None]:
    """While this lasts, modules of a package can be imported and its `__init__` does not run; afterwards it can."""
    if package in sys.modules:
        yield
        return
    spec = find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    stand_in = ModuleType(package)
    stand_in.__path__ = list(spec.submodule_search_locations or ())
    sys.modules[package] = stand_in
    try:
        yield
    finally:
        del sys.modules[package]


@contextmanager
def without(package: str) -> Iterator[None]:
    """While this lasts, whoever can do without a package finds that it is missing; unless it is there already."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]  # how Python itself says so
    try:
        yield
    finally:
        del sys.modules[package]
