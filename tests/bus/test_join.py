"""Join tokens: what goes in comes out, and nonsense is refused without a word of what is secret."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.bus.join import PREFIX, JoinToken, read_token
from twd.bus.seeds import RAW_BYTES

PIN = "0123456789abcdef" * 4
RAW = bytes(range(RAW_BYTES))
TOKEN = JoinToken(("rig.lan:4222", "[fe80::1]:4222"), PIN, RAW)
TEXT = TOKEN.as_text()
HOSTS = st.sampled_from(["rig", "10.0.0.1", "[fe80::1]", "first-machine.lan"])


@given(
    hosts=st.lists(HOSTS, min_size=1, max_size=8),
    port=st.integers(1, 65535),
    raw=st.binary(min_size=RAW_BYTES, max_size=RAW_BYTES),
)
def test_a_token_says_what_was_put_in(hosts: list[str], port: int, raw: bytes) -> None:
    token = JoinToken(tuple(f"{host}:{port}" for host in hosts), PIN, raw)
    assert read_token(f"  {token.as_text()}\n") == token
    assert token.as_text().isascii()
    assert not set(token.as_text()) & set(" '\"\\$`=&"), "it can be pasted into a shell, a file or YAML as it is"


def test_its_secret_is_the_seed_of_a_key_and_shown_by_nothing_but_the_token() -> None:
    assert TOKEN.seed.startswith(b"SU")
    assert TOKEN.public_key.startswith("U")
    assert TOKEN.id == TOKEN.public_key[1:9].lower()
    assert "raw" not in repr(TOKEN)


@given(st.integers(0, len(TEXT) - 1))
def test_a_cut_token_is_refused(length: int) -> None:
    with pytest.raises(ValueError):
        read_token(TEXT[:length])


@given(st.integers(0, len(TEXT) - 2), st.sampled_from("Ab9_-."))
def test_a_changed_token_is_refused_or_the_same(place: int, letter: str) -> None:
    changed = TEXT[:place] + letter + TEXT[place + 1 :]
    if changed != TEXT:
        with pytest.raises(ValueError) as refused:
            read_token(changed)
        assert TEXT[len(PREFIX) + 4 :] not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "it is empty"),
        ("twd2_" + TEXT[5:], "another version"),
        ("tls://s3cret@rig:4222", "twd token add"),
        (JoinToken((), PIN, RAW).as_text(), "cut or changed"),
        (JoinToken(("no port",), PIN, RAW).as_text(), "cut or changed"),
        (JoinToken(("user@rig:4222",), PIN, RAW).as_text(), "cut or changed"),
        (JoinToken(("rig:4222/path",), PIN, RAW).as_text(), "cut or changed"),
        (JoinToken(("rig:4222",) * 9, PIN, RAW).as_text(), "cut or changed"),
        (JoinToken(("rig:4222",), PIN[:8], RAW).as_text(), "cut or changed"),
    ],
)
def test_what_is_no_token_is_refused_with_what_to_do(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_token(text)


@given(st.text(max_size=200))
def test_any_text_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError):
        read_token(PREFIX + text)
