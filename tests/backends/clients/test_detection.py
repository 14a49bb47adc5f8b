"""What kind of server answers is found out, not guessed."""

import pytest
from aiohttp import web

from tests.backends.fakes.gpu_servers import FakeSglang, FakeVllm
from tests.backends.fakes.llama_server import FakeLlamaServer
from tests.backends.fakes.ollama_server import FakeOllama
from tests.backends.fakes.openai_server import OpenAiServer
from tests.backends.fakes.server import Farm, Server
from twd.backends.clients.detection import ADAPTERS, open_backend, server_of
from twd.settings.model import DrafterConfig
from twd.settings.model import ServerConfig as ServerSettings
from twd.wire.failures import FailureCode, TwdError

KINDS: list[tuple[str, type[Server]]] = [
    ("llamacpp", FakeLlamaServer),
    ("ollama", FakeOllama),
    ("openai", OpenAiServer),
    ("vllm", FakeVllm),
    ("sglang", FakeSglang),
]


@pytest.mark.parametrize("path", ["", "/v1"])
@pytest.mark.parametrize(("kind", "server"), KINDS, ids=[kind for kind, _ in KINDS])
async def test_each_kind_is_recognised(farm: Farm, kind: str, server: type[Server], path: str) -> None:
    fake = server()
    await farm.add(fake)
    backend = await open_backend(ServerSettings(url=fake.url + path))
    assert backend.kind == kind
    assert (await backend.probe()).model.startswith("toy")
    await backend.close()


@pytest.mark.parametrize(("kind", "server"), KINDS, ids=[kind for kind, _ in KINDS])
async def test_a_kind_may_be_given(farm: Farm, kind: str, server: type[Server]) -> None:
    fake = server()
    await farm.add(fake)
    settings = ServerSettings(url=fake.url, kind=kind)  # type: ignore[arg-type]
    backend = await open_backend(settings)
    assert type(backend) is ADAPTERS[kind]
    assert not fake.seen, "and nothing is asked for it"
    await backend.close()


class Ancient(Server):
    """An Ollama from before it had OpenAI's API."""

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/api/version", self.version)]

    async def version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "0.1.20"})


class Nginx(Server):
    """A web server that is none of ours."""

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/{path:.*}", self.page)]

    async def page(self, request: web.Request) -> web.Response:
        return web.Response(text="<html>Welcome</html>", content_type="text/html")


async def test_a_server_without_a_list_is_known_by_its_signs(farm: Farm) -> None:
    fake = Ancient()
    await farm.add(fake)
    backend = await open_backend(ServerSettings(url=fake.url))
    assert backend.kind == "ollama"
    await backend.close()


async def test_something_else_is_said_to_be_that(farm: Farm) -> None:
    fake = Nginx()
    await farm.add(fake)
    with pytest.raises(TwdError, match="none of the servers") as caught:
        await open_backend(ServerSettings(url=fake.url))
    assert caught.value.code is FailureCode.BACKEND_BROKEN


async def test_below_a_base_path(farm: Farm) -> None:
    fake = OpenAiServer()
    fake.prefix = "/api/v1"
    await farm.add(fake)
    backend = await open_backend(ServerSettings(url=fake.url, base_path="/api/v1"))
    assert backend.kind == "openai"
    assert (await backend.probe()).model == "toy"
    await backend.close()


async def test_a_key_that_is_wrong_is_said_to_be_wrong(farm: Farm) -> None:
    fake = OpenAiServer()
    fake.key = "right"
    await farm.add(fake)
    with pytest.raises(TwdError, match="check api_key"):
        await open_backend(ServerSettings(url=fake.url, api_key="wrong"))


async def test_nobody_there_is_no_kind() -> None:
    with pytest.raises(TwdError) as caught:
        await open_backend(ServerSettings(url="http://127.0.0.1:9"))
    assert caught.value.code is FailureCode.BACKEND_DOWN
    with pytest.raises(TwdError) as caught:
        await open_backend(ServerSettings(url="http://127.0.0.1:9"), allow_private=False)
    assert caught.value.code is FailureCode.FORBIDDEN


def test_the_server_behind_a_drafter() -> None:
    drafter = DrafterConfig(url="http://h:1", kind="ollama", model_name="m", api_key="k", base_path="/x", timeout_s=3.0)
    assert server_of(drafter) == ServerSettings(
        url="http://h:1", kind="ollama", model_name="m", api_key="k", base_path="/x", timeout_s=3.0
    )
