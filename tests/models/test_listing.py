"""Which files of a repository are meant."""

import pytest

from twd.models.listing import HubEntry, LargeFile, models_in, pick_file, pick_quant
from twd.wire.failures import TwdError

PATHS = (
    "README.md",
    "mmproj-F16.gguf",
    "imatrix.gguf",
    "M-Q4_K_M.gguf",
    "M-UD-Q4_K_M.gguf",
    "M-Q4_K.gguf",
    "m-iq4_xs.gguf",
    "Q8_0/M-Q8_0-00001-of-00002.gguf",
    "Q8_0/M-Q8_0-00002-of-00002.gguf",
    "F16/M-F16-00002-of-00002.gguf",
)


def entries(*paths: str) -> list[HubEntry]:
    folders = [HubEntry("Q8_0", type="directory")]
    return folders + [HubEntry(path, 135, lfs=LargeFile("sha256:" + "0" * 64, 5)) for path in paths or PATHS]


@pytest.mark.parametrize(
    ("quant", "first"),
    [
        ("Q4_K_M", "M-Q4_K_M.gguf"),
        ("q4_k_m", "M-Q4_K_M.gguf"),
        ("UD-Q4_K_M", "M-UD-Q4_K_M.gguf"),
        ("Q4_K", "M-Q4_K.gguf"),
        ("IQ4_XS", "m-iq4_xs.gguf"),
        ("Q8_0", "Q8_0/M-Q8_0-00001-of-00002.gguf"),
        ("", "M-Q4_K_M.gguf"),
    ],
)
def test_a_quantization_is_one_model(quant: str, first: str) -> None:
    assert pick_quant("o/r", entries(), quant)[0].path == first


def test_a_quantization_in_a_name_of_its_own_kind() -> None:
    assert pick_quant("o/r", entries("devstralQ4_K_M.gguf", "x-Q8_0.gguf"), "Q4_K_M")[0].path == "devstralQ4_K_M.gguf"
    assert pick_quant("o/r", entries("only.gguf"), "")[0].path == "only.gguf"
    assert pick_quant("o/r", entries("x.Q4_K_M.gguf"), "Q4_K_M")[0].path == "x.Q4_K_M.gguf"


def test_all_shards_come_in_order() -> None:
    for path in ("Q8_0/M-Q8_0-00001-of-00002.gguf", "Q8_0/M-Q8_0-00002-of-00002.gguf"):
        picked = pick_file("o/r", entries(), path)
        assert [one.path[-14:] for one in picked] == ["-of-00002.gguf"] * 2
        assert [one.path[-19:-14] for one in picked] == ["00001", "00002"]
    assert list(models_in(entries("b-00002-of-00002.gguf", "b-00001-of-00002.gguf"))) == ["b-00001-of-00002.gguf"]


def test_size_and_hash_are_those_of_the_file() -> None:
    entry = entries("a.gguf")[1]
    assert (entry.bytes, entry.sha256) == (5, "0" * 64)
    assert (HubEntry("a.gguf", 7).bytes, HubEntry("a.gguf", 7).sha256) == (7, "")


@pytest.mark.parametrize(
    ("paths", "quant", "cause"),
    [
        (("README.md",), "Q4_K_M", "no GGUF file"),
        (("a-Q2_K.gguf", "b-Q3_K.gguf"), "Q4_K_M", "there is: o/r/a-Q2_K.gguf, o/r/b-Q3_K.gguf"),
        (("a-Q2_K.gguf", "b-Q3_K.gguf"), "", "none of the usual"),
        (("a-Q4_K_M.gguf", "b-Q4_K_M.gguf"), "Q4_K_M", "several files"),
        (("a-Q4_K_M-00001-of-00003.gguf", "a-Q4_K_M-00003-of-00003.gguf"), "Q4_K_M", "lacks parts"),
    ],
)
def test_what_cannot_be_picked_says_what_there_is(paths: tuple[str, ...], quant: str, cause: str) -> None:
    with pytest.raises(TwdError, match=cause):
        pick_quant("o/r", entries(*paths), quant)


def test_a_wrong_path_gets_near_names() -> None:
    for path, near in (
        ("M-Q4_k_m.gguf", "M-Q4_K_M.gguf"),
        ("M-Q8_0-00001-of-00002.gguf", "Q8_0/M-Q8_0-00001-of-00002"),
    ):
        with pytest.raises(TwdError, match=near):
            pick_file("o/r", entries(), path)
