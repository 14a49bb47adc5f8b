"""Modules of a package without what its `__init__` does. In folders of their own."""

import sys
from importlib import import_module
from pathlib import Path

import pytest

from twd.lean_import import bare, without


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """One that takes note when it is imported as a whole."""
    folder = tmp_path / "heavy_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("from heavy_package.light import NUMBER\nfrom heavy_package import other\n")
    (folder / "light.py").write_text("import heavy_package.friend\nNUMBER = 7\n")
    (folder / "friend.py").write_text("")
    (folder / "other.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("", ".light", ".friend", ".other"):
        monkeypatch.delitem(sys.modules, folder.name + name, raising=False)
    return folder.name


def test_only_the_module_is_imported_and_later_the_whole_package_shares_it(package: str) -> None:
    with bare(package):
        light = import_module(f"{package}.light")
    assert light.NUMBER == 7
    assert package not in sys.modules
    assert f"{package}.other" not in sys.modules
    whole = import_module(package)
    assert whole.NUMBER == 7
    assert f"{package}.other" in sys.modules
    assert import_module(f"{package}.light") is light


def test_a_package_that_is_there_already_is_left_alone(package: str) -> None:
    whole = import_module(package)
    with bare(package):
        assert sys.modules[package] is whole
    assert sys.modules[package] is whole


def test_what_is_not_installed_is_missed_by_name() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_package"), bare("no_such_package"):
        pass


def test_a_module_that_fails_leaves_no_stand_in(package: str) -> None:
    with pytest.raises(ModuleNotFoundError), bare(package):
        import_module(f"{package}.missing")
    assert package not in sys.modules


def test_what_others_can_do_without_is_missing_for_a_while(package: str) -> None:
    with without(package), pytest.raises(ImportError):
        import_module(package)
    whole = import_module(package)
    with without(package):
        assert import_module(package) is whole
