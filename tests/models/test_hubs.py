"""SPECs asked of hubs on loopback: what they find, and what is said where a hub refuses."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest
from aiohttp import web

from tests.models.hubs import Hub, Repository, serving_hub, sha256
from twd.models.client import HubClient, read_content_range, retry_after
from twd.models.environment import HubEnvironment
from twd.models.hub import found_on_hub
from twd.models.remote_file import HubSource, RemoteFile, check_magic
from twd.models.spec import parse_spec
from twd.models.web import told_sha256
from twd.pieces.source import SourceError, SourceTrouble
from twd.wire.failures import FailureCode, TwdError

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
DATA = b"GGUF" + bytes(range(256)) * 40
SHARDS = {f"Q8_0/m-Q8_0-0000{number}-of-00003.gguf": DATA + bytes([number]) for number in (1, 2, 3)}
FILES = {"README.md": b"# words", "m-Q4_K_M.gguf": DATA, "mmproj-F16.gguf": b"GGUFp", **SHARDS}


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    made = Hub({"org/Model-GGUF": Repository(FILES), "org/secret": Repository(FILES, private=True)})
    made.registry = {"library/small:1b": DATA}
    async with serving_hub(made):
        yield made


async def files_of(hub: Hub, spec: str, token: str = "") -> list[RemoteFile]:
    environment = HubEnvironment(endpoint=hub.url, token=token)
    async with found_on_hub(parse_spec(spec, hub_hosts=environment.hosts), environment) as found:
        return found.files


async def bytes_of(hub: Hub, file: RemoteFile, token: str = "", begin: int = 0, end: int | None = None) -> bytes:
    client = HubClient(hub.url, token)
    try:
        source = HubSource(client, file)
        return b"".join([part async for part in source.read(begin, (end or file.size) - begin)])
    finally:
        await client.close()


@pytest.mark.parametrize(
    "spec",
    [
        "org/Model-GGUF/m-Q4_K_M.gguf",
        "org/Model-GGUF:q4_k_m",
        "org/Model-GGUF",
        "{url}/org/Model-GGUF/blob/main/m-Q4_K_M.gguf",
    ],
)
async def test_a_file_is_found_with_size_and_hash(hub: Hub, spec: str) -> None:
    (file,) = await files_of(hub, spec.format(url=hub.url))
    assert (file.name, file.size, file.sha256) == ("m-Q4_K_M.gguf", len(DATA), sha256(DATA))
    assert f"/resolve/{hub.repositories['org/Model-GGUF'].commit}/" in file.url
    assert await bytes_of(hub, file) == DATA
    assert await bytes_of(hub, file, begin=5, end=300) == DATA[5:300]


async def test_shards_are_found_over_all_pages_of_a_listing(hub: Hub) -> None:
    found = await files_of(hub, "org/Model-GGUF:Q8_0")
    assert [one.name for one in found] == [path.rpartition("/")[2] for path in SHARDS]
    assert [await bytes_of(hub, one) for one in found] == list(SHARDS.values())


async def test_the_token_goes_to_the_hub_alone(hub: Hub) -> None:
    (file,) = await files_of(hub, "org/secret:Q4_K_M", hub.token)
    assert await bytes_of(hub, file, hub.token) == DATA
    assert hub.tokens_at_files == []
    with pytest.raises(SourceError, match="answered 401"):
        await bytes_of(hub, file)


async def test_an_expired_address_is_asked_for_anew(hub: Hub) -> None:
    (file,) = await files_of(hub, "org/Model-GGUF")
    hub.lifetime = 2
    client = HubClient(hub.url)
    source = HubSource(client, file)
    for begin in range(0, 700, 100):
        assert b"".join([part async for part in source.read(begin, 100)]) == DATA[begin : begin + 100]
    await client.close()
    assert hub.signed == 4


async def test_an_address_that_is_refused_at_once_is_tried_later(hub: Hub) -> None:
    (file,) = await files_of(hub, "org/Model-GGUF")
    hub.lifetime = 0
    with pytest.raises(SourceError, match="answered 403") as refused:
        await bytes_of(hub, file)
    assert refused.value.trouble is SourceTrouble.AWAY


async def test_a_model_of_ollamas_registry(hub: Hub) -> None:
    host = hub.url.removeprefix("http://")
    (file,) = await files_of(hub, f"ollama://{host}/small:1b")
    assert (file.name, file.size, file.sha256) == ("small-1b.gguf", len(DATA), sha256(DATA))
    client = HubClient(hub.url)
    assert b"".join([part async for part in HubSource(client, file).read(0, file.size)]) == DATA
    await client.close()
    with pytest.raises(TwdError, match="has no small:2b") as refused:
        await files_of(hub, f"ollama://{host}/small:2b")
    assert refused.value.code is FailureCode.MODEL_NOT_FOUND


async def test_a_file_on_any_server(hub: Hub) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        begin, end, _ = request.http_range.indices(len(DATA))
        headers = {"Content-Range": f"bytes {begin}-{end - 1}/{len(DATA)}"}
        return web.Response(status=206, body=DATA[begin:end], headers=headers)

    hub.answer_instead = lambda request: answer(request) if request.path.startswith("/files/") else None
    url = hub.url.replace("127.0.0.1", "localhost") + "/files/m.gguf"
    (file,) = await files_of(hub, f"{url}#sha256={sha256(DATA)}")
    assert (file.name, file.size, file.sha256) == ("m.gguf", len(DATA), sha256(DATA))
    with pytest.raises(TwdError, match="#sha256=HEX"):
        await files_of(hub, url)


# -- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "token", "cause", "code"),
    [
        ("org/Modell-GGUF:Q4_K_M", "", "near names: org/Model-GGUF", FailureCode.MODEL_NOT_FOUND),
        ("org/secret:Q4_K_M", "", "private and needs HF_TOKEN", FailureCode.MODEL_NOT_FOUND),
        ("org/Model-GGUF:Q4_K_M", "hf_wrong", "does not accept the token", FailureCode.BAD_REQUEST),
        ("org/Model-GGUF:Q5_K_M", "", "there is: org/Model-GGUF/Q8_0", FailureCode.MODEL_NOT_FOUND),
        ("org/Model-GGUF/m-Q4_K_S.gguf", "", "there is: m-Q4_K_M.gguf", FailureCode.MODEL_NOT_FOUND),
        ("http://127.0.0.1:9/x/m.gguf", "", "does not answer", FailureCode.BACKEND_DOWN),
        ("ollama://127.0.0.1:9/x/m", "", "does not answer", FailureCode.BACKEND_DOWN),
    ],
)
async def test_refusals_say_what_to_do(
    hub: Hub, spec: str, token: str, cause: str, code: FailureCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twd.models.client.TRIES", 1)
    with pytest.raises(TwdError, match=cause) as refused:
        await files_of(hub, spec, token)
    assert refused.value.code is code


async def test_a_revision_that_is_none(hub: Hub) -> None:
    environment = HubEnvironment(endpoint=hub.url)
    with pytest.raises(TwdError, match="no revision v9"):
        async with found_on_hub(parse_spec("org/Model-GGUF", "v9"), environment):
            raise AssertionError


@pytest.mark.parametrize(("token", "cause"), [("", "set HF_TOKEN"), ("hf_right", "no access yet")])
async def test_a_gated_repository_names_its_page(hub: Hub, token: str, cause: str) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model org/Model-GGUF is restricted"}
        return web.Response(status=403 if token else 401, headers=headers)

    hub.answer_instead = lambda request: answer(request)
    with pytest.raises(TwdError, match=f"accept its terms at {hub.url}/org/Model-GGUF.*{cause}"):
        await files_of(hub, "org/Model-GGUF", token)


async def test_a_gated_file_names_the_page_of_its_terms(hub: Hub) -> None:
    hub.repositories["org/Model-GGUF"].gated = True
    (file,) = await files_of(hub, "org/Model-GGUF")
    client = HubClient(hub.url)
    with pytest.raises(TwdError, match=r"org/Model-GGUF is gated: accept its terms") as refused:
        await HubSource(client, file).some(0, 4)
    await client.close()
    assert refused.value.failure.field == "HF_TOKEN"


async def test_a_file_without_a_sha256_is_refused(hub: Hub) -> None:
    hub.repositories["org/Model-GGUF"] = Repository(FILES, plain=("m-Q4_K_M.gguf",))
    with pytest.raises(TwdError, match="no SHA-256"):
        await files_of(hub, "org/Model-GGUF")


async def test_a_busy_hub_is_asked_again_after_the_pause_it_wants(hub: Hub) -> None:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    client = HubClient(hub.url, pause=pause)
    hub.busy, hub.retry_after = 2, "7"
    found, _ = await client.json(f"{hub.url}/api/models/org/Model-GGUF", dict[str, object])
    assert found["id"] == "org/Model-GGUF"
    assert pauses == [7.0, 7.0]
    hub.busy, hub.retry_after = 1, "300"
    with pytest.raises(SourceError, match="wait 300 s"):
        await client.json(f"{hub.url}/api/models/org/Model-GGUF", dict[str, object])
    assert len(pauses) == 2
    await client.close()


async def page(request: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>log in first</html>", content_type="text/html")


async def no_ranges(request: web.Request) -> web.StreamResponse:
    return web.Response(body=DATA)


async def other_size(request: web.Request) -> web.StreamResponse:
    return web.Response(status=206, body=DATA[:4], headers={"Content-Range": "bytes 0-3/4"})


async def shorter(request: web.Request) -> web.StreamResponse:
    headers = {"Content-Range": f"bytes 0-{len(DATA) - 1}/{len(DATA)}"}
    return web.Response(status=206, body=DATA[:-9], headers=headers)


async def more(request: web.Request) -> web.StreamResponse:
    headers = {"Content-Range": f"bytes 0-{len(DATA) - 1}/{len(DATA)}"}
    return web.Response(status=206, body=DATA + b"x", headers=headers)


async def round_and_round(request: web.Request) -> web.StreamResponse:
    raise web.HTTPFound(request.path)


async def plain_words(request: web.Request) -> web.StreamResponse:
    raise web.HTTPInternalServerError(text="<html>oops</html>", content_type="text/html")


@pytest.mark.parametrize(
    ("answer", "cause", "trouble"),
    [
        (page, "web page", SourceTrouble.WRONG),
        (no_ranges, "does not send parts", SourceTrouble.WRONG),
        (other_size, "changed there", SourceTrouble.WRONG),
        (shorter, "hung up", SourceTrouble.AWAY),
        (more, "more than was asked", SourceTrouble.WRONG),
        (round_and_round, "without an end", SourceTrouble.WRONG),
        (plain_words, "answered 500: Internal Server Error", SourceTrouble.AWAY),
    ],
)
async def test_a_hub_that_does_not_keep_to_the_rules(
    hub: Hub, answer: Answer, cause: str, trouble: SourceTrouble
) -> None:
    (file,) = await files_of(hub, "org/Model-GGUF")
    hub.answer_instead = lambda request: answer(request) if "/resolve/" in request.path else None
    with pytest.raises(SourceError, match=cause) as refused:
        await bytes_of(hub, file)
    assert refused.value.trouble is trouble


async def test_a_web_page_where_a_listing_should_be(hub: Hub) -> None:
    hub.answer_instead = lambda request: page(request)
    with pytest.raises(TwdError, match=r"web page.*login page or a proxy"):
        await files_of(hub, "org/Model-GGUF")


async def test_offline_no_hub_is_asked(hub: Hub) -> None:
    environment = HubEnvironment(endpoint=hub.url, offline=True)
    with pytest.raises(TwdError, match="HF_HUB_OFFLINE"):
        async with found_on_hub(parse_spec("org/Model-GGUF"), environment):
            raise AssertionError
    assert hub.asked == []


# -- plain parts ---------------------------------------------------------------------------------------


def test_headers() -> None:
    assert read_content_range("bytes 1-2/30") == (1, 3, 30)
    for wrong in ("", "bytes */30", "bytes 1-2/*", "items 1-2/3", "bytes 1-٣/5"):
        assert read_content_range(wrong) is None
    assert retry_after("30", "") == 30.0
    assert retry_after("", '"api";r=0;t=55') == 55.0
    assert retry_after("Mon, 23 Nov 2026 06:00:00 GMT", "") == 1.0
    assert told_sha256({"X-Linked-Etag": '"' + "a" * 64 + '"'}) == "a" * 64
    assert told_sha256({"Repr-Digest": "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:"}) == "0" * 64
    assert told_sha256({"Digest": "SHA-256=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}) == "0" * 64
    assert told_sha256({"ETag": '"abc"'}) == ""


@pytest.mark.parametrize(("begin", "cause"), [(b"<!DOCTYPE html>", "a web page"), (b"PK\3\4", "no GGUF file")])
def test_what_is_no_model(begin: bytes, cause: str) -> None:
    file = RemoteFile("m.gguf", 5, "0" * 64, "http://x/m.gguf", "x/m.gguf")
    check_magic(file, b"GGUF\3")
    with pytest.raises(TwdError, match=cause):
        check_magic(replace(file, size=9), begin)
