"""Join strings: what goes in comes out, and nonsense is refused without a word of what is secret."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.bus.join import Join, may_join, read_join

PIN = "0123456789abcdef" * 4
TOKENS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=80)


@given(
    host=st.sampled_from(["rig", "10.0.0.1", "fe80::1", "first-machine.lan"]),
    port=st.integers(1, 65535),
    token=TOKENS,
    pin=st.sampled_from([PIN, ""]),
)
def test_a_join_string_says_what_was_put_in(host: str, port: int, token: str, pin: str) -> None:
    text = Join(f"tls://127.0.0.1:{port}", token, pin).as_text(host)
    scheme, shown = "tls" if pin else "nats", f"[{host}]" if ":" in host else host
    assert read_join(f"  {text}\n") == Join(f"{scheme}://{shown}:{port}", token, pin)
    assert text.isascii()
    assert not set(text) & set(" '\"\\$`"), "it can be pasted into a shell, a file or YAML as it is"


@pytest.mark.parametrize(
    "text",
    [
        "s3cret",
        "tls://rig:4222",
        f"tls://rig:4222?sha256={PIN}",
        f"tls://s3cret@rig?sha256={PIN}",
        f"tls://s3cret@:4222?sha256={PIN}",
        f"https://s3cret@rig:4222?sha256={PIN}",
        "tls://s3cret@rig:4222",
        f"tls://s3cret@rig:4222?sha256={PIN[1:]}",
        f"tls://s3cret@rig:4222?sha256={PIN}0",
        f"nats://s3cret@rig:4222?sha256={PIN}",
        f"tls://s3cret@rig:4222/path?sha256={PIN}",
        f"tls://s3cret@rig:4222?sha256={PIN}&role=drafter",
        f"tls://s3cret@rig:99999?sha256={PIN}",
        f"tls://s3cret@[rig:4222?sha256={PIN}",
        "tls://s3cret@rig:4222?&&&",
    ],
)
def test_what_is_no_join_string_is_refused_without_its_secret(text: str) -> None:
    assert not may_join(text)
    with pytest.raises(ValueError) as refused:
        read_join(text)
    assert "s3cret" not in str(refused.value)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    assert may_join(text) in (True, False)


def test_none_is_no_mistake() -> None:
    assert may_join("")
