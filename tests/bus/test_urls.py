"""Broker URLs: what can work is known before anybody connects, and nothing secret is shown."""

import pytest

from twd.bus.address import BusAddress
from twd.bus.base import BusError
from twd.bus.urls import all_usable, shown_url


@pytest.mark.parametrize("text", ["", "host", "host:4222", "nats://a:1,tls://b", "tls://[::1]:4222", "nats://u:p@a:1,"])
def test_what_a_broker_can_be_reached_under(text: str) -> None:
    assert all_usable(text)


@pytest.mark.parametrize("url", ["nats://a:99999", "nats://a:0", "nats://[::1", "ws://a:80", "nats://", "nats://a:b"])
def test_what_cannot_work_is_told_at_once(url: str) -> None:
    assert not all_usable(f"nats://one:4222,{url}")
    with pytest.raises(BusError, match="is no broker URL"):
        BusAddress(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://a:4222", "nats://a:4222"),
        ("tls://user:pass@a:4222/x", "tls://a:4222"),
        ("nats://user:pa/ss@a", "nats://a"),
        ("nats://token@[::1", "nats://[::1"),
    ],
)
def test_a_url_is_shown_without_secrets_whatever_it_is(url: str, shown: str) -> None:
    assert shown_url(url) == shown
