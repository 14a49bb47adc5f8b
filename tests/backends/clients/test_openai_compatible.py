"""What is particular to servers with OpenAI's API."""

import json

import msgspec
import pytest

from tests.backends.fakes.openai_server import OpenAiServer
from tests.backends.fakes.server import Farm
from tests.backends.fakes.toy import TOY
from tests.backends.rigs import read, text_of, wish
from twd.backends.clients.openai_compatible import OpenAiClient
from twd.backends.clients.upstream import UpstreamServer
from twd.chat.tool_calls.deltas import ContentDelta, ToolCallArguments, ToolCallStart
from twd.chat.tool_calls.stream import ToolCallStream
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import ChatMessage, FinishReason, Grammar, GrammarKind, Prompt, Sampling

HI = Prompt(messages=[ChatMessage(role="user", content="hi")])


async def backend_of(farm: Farm, server: OpenAiServer, url_path: str = "", base_path: str = "") -> OpenAiClient:
    """A started server and its adapter, probed."""
    await farm.add(server)
    backend = OpenAiClient(UpstreamServer(server.url + url_path, timeout_s=2), "", base_path)
    await backend.probe()
    return backend


@pytest.mark.parametrize(
    ("prefix", "url_path", "base_path"),
    [("/v1", "", ""), ("/v1", "/v1", ""), ("/api/v1", "", "/api/v1"), ("/api/v1", "/api", ""), ("/x", "", "/x")],
)
async def test_the_api_may_be_below_any_path(farm: Farm, prefix: str, url_path: str, base_path: str) -> None:
    server = OpenAiServer()
    server.prefix = prefix
    backend = await backend_of(farm, server, url_path, base_path)
    assert text_of(await read(backend, wish(prompt=HI)))
    assert server.paths()[-1] == f"{prefix}/chat/completions"
    await backend.close()


async def test_a_key_and_a_model_are_sent(farm: Farm) -> None:
    server = OpenAiServer()
    server.key = "sk-1"
    await farm.add(server)
    backend = OpenAiClient(UpstreamServer(server.url, api_key="sk-1"), "other")
    assert (await backend.probe()).model == "other"
    await read(backend, wish())
    assert server.bodies("/completions")[-1]["model"] == "other"
    await backend.close()


async def test_fields_that_a_server_does_not_know_are_learnt_once(farm: Farm) -> None:
    server = OpenAiServer()
    server.unknown_fields = {"max_tokens", "stream_options"}
    server.script = list(TOY.words[:9])
    backend = await backend_of(farm, server)
    for _ in range(2):
        assert text_of(await read(backend, wish(prompt=HI, max_tokens=4))) == TOY.text(TOY.words[:4])
    assert len(server.bodies("/completions")) == 4
    assert server.bodies("/completions")[-1]["max_completion_tokens"] == 4
    await backend.close()


async def test_a_server_that_does_not_stream(farm: Farm) -> None:
    server = OpenAiServer()
    server.streams = False
    server.script = list(TOY.words[:9])
    backend = await backend_of(farm, server)
    pieces = await read(backend, wish(prompt=HI))
    assert text_of(pieces) == TOY.text(TOY.words[:9])
    assert pieces[-1].end is FinishReason.STOP
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.completion == 9
    await backend.close()


async def test_thoughts_are_written_out_as_models_write_them(farm: Farm) -> None:
    server = OpenAiServer()
    server.thoughts, server.script = "let me see", TOY.tokenize(" it is so")
    backend = await backend_of(farm, server)
    text = text_of(await read(backend, wish(prompt=HI)))
    assert text == "<think>\nlet me see \n</think>\n\n it is so"
    await backend.close()


async def test_calls_are_written_out_as_models_write_them(farm: Farm) -> None:
    server = OpenAiServer()
    server.script = TOY.tokenize("ok.")
    server.calls = [("weather", '{"city": "Os\\"lo"}'), ("now", ""), ("time", "{}")]
    backend = await backend_of(farm, server)
    names = ["weather", "now", "time"]
    tools = [json.dumps({"type": "function", "function": {"name": name}}) for name in names]
    prompt = Prompt(messages=HI.messages, tools=[msgspec.Raw(tool.encode()) for tool in tools])
    text = text_of(await read(backend, wish(prompt=prompt)))
    assert [tool["function"]["name"] for tool in server.bodies("/completions")[-1]["tools"]] == names
    stream = ToolCallStream({name: {} for name in names})
    deltas = stream.feed(text) + stream.finish()
    assert [delta for delta in deltas if isinstance(delta, ContentDelta)] == [ContentDelta("ok.")]
    assert [delta.name for delta in deltas if isinstance(delta, ToolCallStart)] == names
    arguments = ["".join(d.text for d in deltas if isinstance(d, ToolCallArguments) and d.index == i) for i in range(3)]
    assert [json.loads(text) for text in arguments] == [{"city": 'Os"lo'}, {}, {}]
    await backend.close()


@pytest.mark.parametrize("prompt", [HI, Prompt(text="once upon")], ids=["chat", "text"])
@pytest.mark.parametrize("reason", ["abort", "error"])
async def test_a_text_that_the_server_gave_up_is_not_whole(
    farm: Farm, monkeypatch: pytest.MonkeyPatch, prompt: Prompt, reason: str
) -> None:
    server = OpenAiServer()
    monkeypatch.setattr(server, "written", lambda *asked: (TOY.show(TOY.tokenize(" it is")), reason, ""))
    backend = await backend_of(farm, server)
    with pytest.raises(TwdError, match="gave up"):
        await read(backend, wish(prompt=prompt))
    await backend.close()


async def test_log_probabilities_are_passed_on(farm: Farm) -> None:
    server = OpenAiServer()
    server.script = TOY.tokenize(" it is")
    backend = await backend_of(farm, server)
    pieces = await read(backend, wish(prompt=HI, logprobs=2))
    entries = [entry for piece in pieces for entry in piece.logprobs]
    assert [entry.text for entry in entries] == [" it", " is"]
    assert [top.logprob for top in entries[0].top] == [-0.25, -1.25]
    assert entries[0].bytes == list(b" it")
    await backend.close()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"sampling": Sampling(temperature=1.0, top_k=5)}, "top_k"),
        ({"sampling": Sampling(temperature=1.0, min_p=0.5)}, "min_p"),
        ({"sampling": Sampling(repeat_penalty=1.3)}, "repeat_penalty"),
        ({"sampling": Sampling(dry_multiplier=0.8)}, "dry_multiplier"),
        ({"sampling": Sampling(typical_p=0.5)}, "typical_p"),
        ({"ignore_eos": True}, "ignore_eos"),
        ({"grammar": Grammar(kind=GrammarKind.GBNF, text='root ::= "a"')}, "grammar"),
        ({"prompt": Prompt(messages=HI.messages, prefill="Sure")}, "messages"),
        ({"prompt": Prompt(messages=HI.messages, template_args={"enable_thinking": False})}, "chat_template_kwargs"),
    ],
)
async def test_wishes_beyond_the_api_are_refused(farm: Farm, fields: dict[str, object], field: str) -> None:
    backend = await backend_of(farm, OpenAiServer())
    with pytest.raises(TwdError) as caught:
        await read(backend, wish(**fields))  # type: ignore[arg-type]
    assert caught.value.code is FailureCode.UNSUPPORTED
    assert caught.value.failure.field == field
    await backend.close()


async def test_wishes_that_change_nothing_are_let_go(farm: Farm) -> None:
    server = OpenAiServer()
    backend = await backend_of(farm, server)
    await read(backend, wish(sampling=Sampling(top_k=40, min_p=0.1, repeat_last_n=9, dry_base=2.0)))
    assert server.bodies("/completions")[-1].keys() == {
        "model",
        "stream",
        "stream_options",
        "temperature",
        "max_tokens",
        "prompt",
    }
    await read(backend, wish(prompt=Prompt(messages=HI.messages, template_args={"reasoning_effort": "low"})))
    assert server.bodies("/completions")[-1]["reasoning_effort"] == "low"
    await backend.close()


async def test_a_context_that_is_too_small(farm: Farm) -> None:
    backend = await backend_of(farm, OpenAiServer())
    with pytest.raises(TwdError) as caught:
        await read(backend, wish("a " * 5000))
    assert caught.value.code is FailureCode.CONTEXT_OVERFLOW
    await backend.close()


async def test_a_server_without_models(farm: Farm) -> None:
    server = OpenAiServer()
    server.models = []
    await farm.add(server)
    backend = OpenAiClient(UpstreamServer(server.url))
    with pytest.raises(TwdError) as caught:
        await backend.probe()
    assert caught.value.code is FailureCode.BACKEND_DOWN
    await backend.close()
