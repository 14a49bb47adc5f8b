"""What the environment says of hubs, and where a token may go."""

from pathlib import Path

import pytest

from twd.models.addresses import may_have_token, next_address
from twd.models.environment import read_hub_environment
from twd.wire.failures import TwdError


def test_the_variables_of_huggingface_hub(tmp_path: Path) -> None:
    plain = read_hub_environment({}, tmp_path)
    assert (plain.endpoint, plain.token, plain.offline) == ("https://huggingface.co", "", False)
    assert plain.cache == tmp_path / ".cache/huggingface/hub"
    hf_home = tmp_path / "hf"
    hf_home.mkdir()
    (hf_home / "token").write_text("hf_file\n")
    told = {"HF_HOME": str(hf_home), "HF_ENDPOINT": "https://mirror.example/hf/", "HF_HUB_OFFLINE": "1"}
    read = read_hub_environment(told, tmp_path)
    assert (read.token, read.endpoint, read.offline) == ("hf_file", "https://mirror.example/hf", True)
    assert read.cache == hf_home / "hub"
    assert read_hub_environment({**told, "HF_TOKEN": " hf_own "}, tmp_path).token == "hf_own"
    assert read_hub_environment({"HF_HUB_CACHE": "~/c"}, tmp_path).cache == tmp_path / "c"
    assert "hf_file" not in repr(read)


@pytest.mark.parametrize(
    "told",
    [{"HF_TOKEN": "tökén"}, {"HF_TOKEN": "two words"}, {"HF_ENDPOINT": "huggingface.co"}, {"HF_ENDPOINT": "http://:x"}],
)
def test_what_makes_no_sense_is_named(told: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(TwdError, match=next(iter(told))):
        read_hub_environment(told, tmp_path)


@pytest.mark.parametrize(
    ("url", "endpoint", "goes"),
    [
        ("https://huggingface.co/api/x", "https://huggingface.co", True),
        ("https://HUGGINGFACE.co:443/api/x", "https://huggingface.co", True),
        ("https://cdn.huggingface.co/x", "https://huggingface.co", False),
        ("https://huggingface.co.evil.example/x", "https://huggingface.co", False),
        ("http://huggingface.co/x", "https://huggingface.co", False),
        ("https://huggingface.co:8443/x", "https://huggingface.co", False),
        ("http://mirror.lan/x", "http://mirror.lan", False),
        ("http://127.0.0.1:80/x", "http://127.0.0.1", True),
    ],
)
def test_where_a_token_goes(url: str, endpoint: str, goes: bool) -> None:
    assert may_have_token(url, endpoint) is goes


@pytest.mark.parametrize(
    ("url", "location", "target", "why"),
    [
        ("https://a.example/x", "/y", "https://a.example/y", ""),
        ("https://a.example/x", "https://b.example/y?s=1", "https://b.example/y?s=1", ""),
        ("https://a.example/x", "http://b.example/y", "", "plain"),
        ("https://a.example/x", "file:///etc/passwd", "", "no address"),
        ("https://a.example/x", "https://[::1", "", "no address"),
        ("https://a.example/x", "https://169.254.169.254/y", "", "into this network"),
        ("https://a.example/x", "https://localhost/y", "", "into this network"),
        ("http://127.0.0.1/x", "http://127.0.0.1:81/y", "http://127.0.0.1:81/y", ""),
    ],
)
def test_which_redirects_are_followed(url: str, location: str, target: str, why: str) -> None:
    found, said = next_address(url, location)
    assert found == target
    assert why in said
    assert bool(said) is not bool(found)
