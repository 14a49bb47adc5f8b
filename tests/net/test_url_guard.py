"""Where backends may be, and where requests may not be led."""

import ipaddress

import pytest

from twd.net.url_guard import check_literal, parse_base, refusal
from twd.wire.failures import FailureCode, TwdError

_REFUSED = """
0.0.0.0 10.0.0.1 100.64.0.1 100.100.100.200 127.0.0.1 127.255.255.254 168.63.129.16 169.254.169.254 172.16.0.1
172.31.255.255 192.0.0.192 192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1 198.19.255.255 198.51.100.7 203.0.113.9
224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
:: ::1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::127.0.0.1 64:ff9b::a00:1 64:ff9b::808:808 64:ff9b:1::1 100::1 2001::1
2001:2::1 2001:10::1 2001:20::1 2001:db8::1 2002:7f00:1:: 2002:808:808::1 3fff::1 4000::1 fc00::1 fd00:ec2::254 fe80::1
fe80::1%eth0 fec0::1 ff02::1
"""
_ALLOWED = "1.1.1.1 8.8.8.8 100.63.255.255 100.128.0.1 172.15.0.1 172.32.0.1 198.17.0.1 198.20.0.1 223.255.255.255"
_ALLOWED_6 = "2001:4860:4860::8888 2606:4700:4700::1111 2a00:1450:4001::1 2003::1"


@pytest.mark.parametrize("address", _REFUSED.split())
def test_addresses_of_no_concern_to_the_internet_are_refused(address: str) -> None:
    assert refusal(ipaddress.ip_address(address))
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(TwdError) as caught:
        check_literal(parse_base(f"http://{host}:80"), allow_private=False)
    assert caught.value.code is FailureCode.FORBIDDEN
    assert "allow_private_upstream" in str(caught.value)
    check_literal(parse_base(f"http://{host}:80"), allow_private=True)


@pytest.mark.parametrize("address", [*_ALLOWED.split(), *_ALLOWED_6.split()])
def test_public_addresses_are_allowed(address: str) -> None:
    assert refusal(ipaddress.ip_address(address)) == ""


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://host/",
        "file:///etc/passwd",
        "gopher://host",
        "//host",
        "host:80",
        "http://",
        "http://:80",
        "http://host:99999",
        "http://host:x",
        "http://user:secret@host/",
        "http://host/?q=1",
        "http://host/#f",
        "http://ho\\st",
        "http://host\r\nX: y",
        "http://[::1",
    ],
)
def test_what_is_no_address_of_a_server(url: str) -> None:
    with pytest.raises(TwdError) as caught:
        parse_base(url)
    assert caught.value.code is FailureCode.BAD_REQUEST
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("http://host", "http://host:80"),
        ("https://host/", "https://host:443"),
        ("http://host:8080/api/v1/", "http://host:8080/api"),
        ("http://[fd00::1]:8080", "http://[fd00::1]:8080"),
    ],
)
def test_an_address_in_its_parts(url: str, root: str) -> None:
    assert parse_base(url).url("") == root
    assert parse_base(url).url("/x") == f"{root}/x"
