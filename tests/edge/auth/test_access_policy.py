"""Who comes in: every route, every kind of visitor, as one table."""

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.edge.conftest import House, OpenHouse, ctx
from twd.bus.base import BusError
from twd.bus.memory.bus import MemoryBroker
from twd.edge.auth.access_policy import AccessPolicy, RequestCredentials, check_bind
from twd.edge.auth.keys import ApiKey, KeyRing, KeyStore, digest, new_key
from twd.edge.auth.rate_limits import DAY_MS, RateLimited, UsageMeter
from twd.edge.auth.sessions import LIFETIME_S, BrowserSessions
from twd.edge.service import EdgeService
from twd.kit.ids import Ids
from twd.net.addresses import is_loopback
from twd.settings.model import EdgeConfig, Settings
from twd.wire.failures import FailureCode, TwdError

ENTROPY = Ids(random.Random(4)).secret()
CHAT = {"messages": [{"role": "user", "content": "hi"}]}

ROUTES: list[tuple[str, str, Any]] = [
    ("POST", "/v1/chat/completions", CHAT),
    ("POST", "/v1/completions", {"prompt": "x"}),
    ("GET", "/v1/models", None),
    ("GET", "/v1/models/small", None),
    ("GET", "/v1/twd/status", None),
    ("GET", "/v1/nothing", None),
]
OPEN_ROUTES = [("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/login")]


def secret(word: str) -> str:
    return f"twd_{word}{ENTROPY}"


def keys() -> list[ApiKey]:
    return [
        ApiKey(name="good", sha256=digest(secret("good"))),
        ApiKey(name="gone", sha256=digest(secret("gone")), revoked=True),
        ApiKey(name="limited", sha256=digest(secret("limited")), models=["other"]),
        ApiKey(name="umlaut", sha256=digest("schlüssel")),
    ]


def headers(kind: str, port: int) -> dict[str, str]:
    return {
        "no key": {},
        "wrong key": {"Authorization": "Bearer nope"},
        "empty key": {"Authorization": "Bearer "},
        "basic": {"Authorization": "Basic dXNlcjpwYXNz"},
        "revoked key": {"Authorization": f"Bearer {secret('gone')}"},
        "limited key": {"Authorization": f"Bearer {secret('limited')}"},
        "non-ASCII wrong key": {"Authorization": "Bearer ключ"},
        "non-ASCII key": {"Authorization": "Bearer schlüssel"},
        "good key": {"Authorization": f"Bearer {secret('good')}"},
        "lower case": {"Authorization": f"bearer {secret('good')}"},
        "x-api-key": {"x-api-key": secret("good")},
        "other origin": {"Authorization": f"Bearer {secret('good')}", "Origin": "https://evil.example"},
        "null origin": {"Authorization": f"Bearer {secret('good')}", "Origin": "null"},
        "own origin": {"Authorization": f"Bearer {secret('good')}", "Origin": f"http://127.0.0.1:{port}"},
        "other host": {"Host": "evil.example"},
        "other host, good key": {"Host": "proxy.example", "Authorization": f"Bearer {secret('good')}"},
        "forged cookie": {"Cookie": "twd_session=" + "a" * 64},
    }[kind]


def expected(kind: str, path: str) -> set[int]:
    normal = {404} if path == "/v1/nothing" else {200}
    if kind in ("no key", "wrong key", "empty key", "basic", "revoked key", "non-ASCII wrong key", "forged cookie"):
        return {401}
    if kind in ("other origin", "null origin", "other host"):
        return {403}
    if kind == "limited key" and ("completions" in path or path == "/v1/models/small"):
        return {403}
    return normal


KINDS = [
    "no key",
    "wrong key",
    "empty key",
    "basic",
    "revoked key",
    "limited key",
    "non-ASCII wrong key",
    "non-ASCII key",
    "good key",
    "lower case",
    "x-api-key",
    "other origin",
    "null origin",
    "own origin",
    "other host",
    "other host, good key",
    "forged cookie",
]


async def test_the_matrix(open_house: OpenHouse, tmp_path: Path) -> None:
    KeyStore(tmp_path).save(keys())
    house = await open_house()
    for method, path, payload in ROUTES:
        for kind in KINDS:
            given_headers = headers(kind, house.edge.server.port)
            response = await house.http.request(method, house.edge.url + path, json=payload, headers=given_headers)
            assert response.status in expected(kind, path), (method, path, kind, await response.text())
            if response.status in (401, 403):
                assert (await response.json())["error"]["message"]
                assert secret("good") not in await response.text()
            if response.status == 401:
                assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert all(job.model == "small" for job in house.speculator.jobs)


async def test_open_routes_stay_open_and_tell_little(open_house: OpenHouse, tmp_path: Path) -> None:
    KeyStore(tmp_path).save(keys())
    house = await open_house()
    await house.speculator.stop()
    await house.edge._refresh()
    for method, path in OPEN_ROUTES:
        response = await house.http.request(method, house.edge.url + path)
        assert response.status in (200, 503)
    assert (await (await house.http.get(house.edge.url + "/readyz")).json())["reasons"] == []


async def test_without_keys_loopback_is_open_to_programs_but_not_to_foreign_pages(house: House) -> None:
    for given_headers, status in [
        ({}, 200),
        ({"Authorization": "Bearer whatever"}, 200),
        ({"Host": "localhost"}, 200),
        ({"Host": "twd.localhost:8088"}, 200),
        ({"Host": "[::1]:8088"}, 200),
        ({"Host": "192.168.1.7"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": f"http://127.0.0.1:{house.edge.server.port}"}, 200),
        ({"Origin": f"https://127.0.0.1:{house.edge.server.port}"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
    ]:
        response = await house.http.get(house.edge.url + "/v1/models", headers=given_headers)
        assert response.status == status, given_headers
        assert "Access-Control-Allow-Origin" not in response.headers


async def test_security_headers(house: House) -> None:
    for path in ("/v1/models", "/v1/nothing"):
        response = await house.http.get(house.edge.url + path)
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["X-Frame-Options"] == "DENY"
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert response.headers["Server"] == "twd"


async def test_cors_only_where_configured(open_house: OpenHouse) -> None:
    house = await open_house(cors_origins=["https://chat.example"])
    friend = {"Origin": "https://chat.example"}
    response = await house.http.get(house.edge.url + "/v1/models", headers=friend)
    assert response.headers["Access-Control-Allow-Origin"] == "https://chat.example"
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    preflight = await house.http.options(house.edge.url + "/v1/chat/completions", headers=friend | asks)
    assert preflight.status == 204
    assert preflight.headers["Access-Control-Allow-Headers"] == "authorization"
    refused = await house.http.options(house.edge.url + "/v1/models", headers={"Origin": "https://evil.example"} | asks)
    assert refused.status == 403


async def test_a_login_sets_a_cookie_that_counts(open_house: OpenHouse) -> None:
    house = await open_house(token=secret("token"))
    wrong = await house.http.post(house.edge.url + "/login", json={"key": "nope"})
    assert wrong.status == 401
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar) as browser:
        assert (await browser.get(house.edge.url + "/v1/models")).status == 401
        login = await browser.post(house.edge.url + "/login", json={"key": secret("token")})
        assert login.status == 200
        cookie = login.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert (await browser.get(house.edge.url + "/v1/models")).status == 200
        state = await (await browser.get(house.edge.url + "/login")).json()
        assert state == {"needed": True, "name": "TWD_TOKEN"}
        await browser.post(house.edge.url + "/logout")
        assert (await browser.get(house.edge.url + "/v1/models")).status == 401


async def test_a_revoked_key_counts_no_more_and_the_door_stays_closed(open_house: OpenHouse, tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    store.save(keys()[:1])
    house = await open_house()
    good = {"Authorization": f"Bearer {secret('good')}"}
    assert (await house.http.get(house.edge.url + "/v1/models", headers=good)).status == 200
    store.revoke("good")
    await house.edge._refresh()
    assert (await house.http.get(house.edge.url + "/v1/models", headers=good)).status == 401
    assert (await house.http.get(house.edge.url + "/v1/models")).status == 401


async def test_a_key_can_be_revoked_while_the_bus_is_away(
    open_house: OpenHouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away() -> NoReturn:
        raise BusError("the bus is away")

    store = KeyStore(tmp_path)
    store.save(keys()[:1])
    house = await open_house()
    monkeypatch.setattr(house.edge._registry, "entries", away)
    store.revoke("good")
    await house.edge._refresh()
    good = {"Authorization": f"Bearer {secret('good')}"}
    assert (await house.http.get(house.edge.url + "/v1/models", headers=good)).status == 401


async def test_limits_of_a_key(open_house: OpenHouse, tmp_path: Path) -> None:
    KeyStore(tmp_path).save([ApiKey(name="k", sha256=digest(secret("k")), requests_per_minute=2)])
    house = await open_house()
    me = {"Authorization": f"Bearer {secret('k')}"}
    statuses = [(await house.post("/v1/chat/completions", CHAT, headers=me)).status for _ in range(3)]
    assert statuses == [200, 200, 429]
    refused = await house.post("/v1/chat/completions", CHAT, headers=me)
    assert int(refused.headers["Retry-After"]) in range(1, 31)
    assert (await refused.json())["error"]["code"] == "rate_limit_exceeded"


@pytest.mark.parametrize(
    ("host", "options", "opens"),
    [
        ("127.0.0.1", {}, True),
        ("localhost", {}, True),
        ("::1", {}, True),
        ("[::1]", {}, True),
        ("0.0.0.0", {}, False),
        ("::", {}, False),
        ("192.168.1.5", {}, False),
        ("myhost", {}, False),
        ("0.0.0.0", {"token": "t"}, True),
        ("0.0.0.0", {"allow_unauthenticated": True}, True),
    ],
)
def test_others_may_come_only_with_a_key_or_by_decree(host: str, options: dict[str, Any], opens: bool) -> None:
    settings = EdgeConfig(host=host, **options)
    if opens:
        check_bind(host, KeyRing([], settings.token), settings.allow_unauthenticated)
        return
    with pytest.raises(TwdError, match="TWD_TOKEN"):
        check_bind(host, KeyRing([], settings.token), settings.allow_unauthenticated)


async def test_an_edge_that_may_not_open_does_not_start(tmp_path: Path) -> None:
    settings = Settings(home=str(tmp_path), edge=EdgeConfig(host="0.0.0.0", port=0))
    with pytest.raises(TwdError, match="allow_unauthenticated"):
        EdgeService(ctx(MemoryBroker()), settings)


async def test_a_taken_port_is_told(house: House, tmp_path: Path) -> None:
    second = EdgeService(
        ctx(house.broker, 9), Settings(home=str(tmp_path), edge=EdgeConfig(port=house.edge.server.port))
    )
    with pytest.raises(TwdError, match="TWD_EDGE_PORT"):
        await second.start()
    await second.stop()


@given(st.text())
def test_any_secret_is_simply_unknown(text: str) -> None:
    ring = KeyRing(keys(), secret("token"))
    assert ring.find(text) is None or text == "schlüssel"


@given(st.dictionaries(st.sampled_from(["Host", "Origin", "Authorization", "x-api-key"]), st.text()))
def test_a_closed_door_opens_for_nothing_but_a_key(noise: dict[str, str]) -> None:
    door = AccessPolicy(KeyRing(keys()), True)
    with pytest.raises(TwdError):
        door.open_for(RequestCredentials(method="GET", path="/v1/models", headers=noise))


def test_the_key_file_keeps_no_secret(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    shown, key = new_key("bob", ENTROPY, 1, models=["small"], concurrent=2)
    store.add(key)
    assert shown.encode() not in store.path.read_bytes()
    assert ENTROPY.encode() not in store.path.read_bytes()
    assert store.path.stat().st_mode & 0o077 == 0
    assert KeyRing(store.load()).find(shown) == key
    with pytest.raises(TwdError, match="already"):
        store.add(key)
    with pytest.raises(TwdError, match="bob"):
        store.revoke("alice")
    store.revoke("bob")
    assert KeyRing(store.load()).find(shown) is None


ADD_KEYS = """
import sys
from pathlib import Path
from twd.edge.auth.keys import KeyStore, new_key
store, first = KeyStore(Path(sys.argv[1])), int(sys.argv[2])
for number in range(first, first + 20):
    store.add(new_key(f"key-{number}", f"entropy {number}", number)[1])
    if number % 2:
        store.revoke(f"key-{number}")
"""


def test_processes_that_change_the_keys_at_once_lose_none(tmp_path: Path) -> None:
    home, starts = tmp_path / "home", (0, 100, 200)
    processes = [subprocess.Popen([sys.executable, "-c", ADD_KEYS, str(home), str(first)]) for first in starts]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    kept = {key.name: key.revoked for key in KeyStore(home).load()}
    assert kept == {f"key-{first + n}": bool(n % 2) for first in starts for n in range(20)}


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "-x", "ü", "TWD_TOKEN"])
def test_names_of_keys(name: str) -> None:
    with pytest.raises(TwdError):
        new_key(name, ENTROPY, 1)


@pytest.mark.parametrize("text", ["{", '{"later": ' + "[" * 100_000])
def test_a_broken_key_file_is_named(tmp_path: Path, text: str) -> None:
    store = KeyStore(tmp_path)
    store.path.write_text(text)
    with pytest.raises(TwdError, match=r"keys\.json"):
        store.load()


def test_a_key_file_that_cannot_be_looked_at_is_told_once_and_read_when_it_can_be(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    store = KeyStore(home)
    store.save(keys())
    store.load()
    home.rename(tmp_path / "aside")
    home.write_text("no folder")
    assert store.changed()
    with pytest.raises(TwdError, match="cannot be read"):
        store.load()
    assert not store.changed()
    home.unlink()
    (tmp_path / "aside").rename(home)
    assert store.changed()
    assert store.load() == keys()


def refused(action: Callable[[], None]) -> int:
    with pytest.raises(RateLimited) as error:
        action()
    return error.value.wait_s


def test_the_meter() -> None:
    meter = UsageMeter()
    key = ApiKey(name="k", sha256="0" * 64, requests_per_minute=60, concurrent=3, tokens_per_day=100)
    meter.enter(key, 2, 0.0, 0)
    assert refused(lambda: meter.enter(key, 2, 0.0, 0)) == 1
    meter.leave(key, 2, 99, 0.0, 0)
    meter.enter(key, 1, 0.0, 0)
    meter.leave(key, 1, 1, 0.0, 0)
    assert refused(lambda: meter.enter(key, 1, 0.0, 1000)) == DAY_MS // 1000 - 1
    meter.enter(key, 1, 1.0, DAY_MS)
    with pytest.raises(TwdError, match="4 answers were asked for at once") as error:  # waiting would not help
        meter.enter(key, 4, 1.0, DAY_MS)
    assert error.value.code is FailureCode.BAD_REQUEST


def test_the_allowance_comes_back_with_time() -> None:
    meter = UsageMeter()
    key = ApiKey(name="k", sha256="0" * 64, requests_per_minute=2)
    meter.enter(key, 1, 0.0, 0)
    meter.enter(key, 1, 0.0, 0)
    assert refused(lambda: meter.enter(key, 1, 0.0, 0)) == 30
    meter.enter(key, 1, 30.0, 0)


def test_sessions_end() -> None:
    sessions = BrowserSessions()
    sessions.begin("c", "bob", 0.0)
    assert sessions.key_name("c", 1.0) == "bob"
    assert sessions.key_name("d", 1.0) == ""
    assert sessions.key_name("c", LIFETIME_S) == ""


def test_loopback() -> None:
    assert is_loopback("127.8.8.8")
    assert not is_loopback("10.0.0.1")
