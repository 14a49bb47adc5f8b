"""Settings that a service manager hands over as files."""

from pathlib import Path

import pytest

from twd.settings.credentials import FOLDER_VARIABLE
from twd.settings.errors import ConfigError
from twd.settings.load import Loaded, load_settings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "credentials"
    folder.mkdir()
    return folder


def load(folder: Path, **env: str) -> Loaded:
    return load_settings(None, {FOLDER_VARIABLE: str(folder), **env}, folder.parent, folder.parent)


def test_a_file_gives_the_setting_of_its_name(folder: Path) -> None:
    (folder / "edge.token").write_text("sixteen-letters-and-more\n")
    loaded = load(folder)
    assert loaded.settings.edge.token == "sixteen-letters-and-more"
    assert str(loaded.places["edge.token"]) == str(folder / "edge.token")


def test_a_variable_wins_over_it_and_it_wins_over_the_file(folder: Path) -> None:
    (folder.parent / "twd.yaml").write_text("edge: {token: of-the-file-0000, max_queue: 3}\n")
    (folder / "edge.token").write_text("of-the-credential")
    assert load(folder).settings.edge.token == "of-the-credential"
    assert load(folder, TWD_TOKEN="of-the-variable-").settings.edge.token == "of-the-variable-"
    assert load(folder).settings.edge.max_queue == 3


def test_where_a_path_is_wanted_the_file_itself_is_meant(folder: Path) -> None:
    (folder / "bus.nkey_file").write_text("SECRETSEED")
    assert load(folder).settings.bus.nkey_file == str(folder / "bus.nkey_file")


def test_other_programs_credentials_are_left_alone(folder: Path) -> None:
    (folder / "their.secret").write_bytes(b"\xff\x00")
    (folder / "edge").mkdir()
    assert load(folder).places == {}


@pytest.mark.parametrize("data", [b"\xff\xfe", b"x" * 70_000])
def test_what_cannot_be_read_is_named(folder: Path, data: bytes) -> None:
    (folder / "edge.token").write_bytes(data)
    with pytest.raises(ConfigError, match=r"edge\.token: cannot be read"):
        load(folder)


def test_without_a_service_manager_there_are_none(tmp_path: Path) -> None:
    (tmp_path / "edge.token").write_text("sixteen-letters-and-more")
    assert load_settings(None, {FOLDER_VARIABLE: "."}, tmp_path, tmp_path).settings.edge.token == ""
