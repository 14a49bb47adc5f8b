"""What is particular to Ollama."""

import json

import msgspec
import pytest

from tests.backends.fakes.ollama_server import FakeOllama
from tests.backends.fakes.server import Farm
from tests.backends.fakes.toy import TOY
from tests.backends.rigs import read, text_of, wish
from twd.backends.clients.ollama import OllamaClient
from twd.backends.clients.upstream import UpstreamServer
from twd.chat.tool_calls.deltas import ToolCallArguments, ToolCallStart
from twd.chat.tool_calls.stream import ToolCallStream
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import ChatMessage, Grammar, GrammarKind, Prompt, Sampling, ToolCall

HI = Prompt(messages=[ChatMessage(role="user", content="hi")])


async def backend_of(farm: Farm, server: FakeOllama, model: str = "toy") -> OllamaClient:
    """A started server and its adapter."""
    await farm.add(server)
    return OllamaClient(UpstreamServer(server.url, timeout_s=2), model)


async def test_what_it_tells_of_a_model(farm: Farm) -> None:
    server = FakeOllama()
    backend = await backend_of(farm, server)
    can = await backend.probe()
    assert (can.architecture, can.quantization, can.context) == ("llama", "Q4_0", 4096)
    assert (can.parameters, can.vocabulary, can.version) == (8_030_261_248, TOY.size, "0.12.11")
    assert (can.text, can.chat, can.tokens, can.score) == (True, True, False, False)
    server.capabilities = ["embedding"]
    with pytest.raises(TwdError, match="makes no texts"):
        await backend.probe()
    server.models = []
    with pytest.raises(TwdError, match="lists none"):
        await backend.probe()
    await backend.close()


async def test_a_prompt_is_never_cut_in_silence(farm: Farm) -> None:
    backend = await backend_of(farm, FakeOllama())
    with pytest.raises(TwdError) as caught:
        await read(backend, wish("a " * 5000))
    assert caught.value.code is FailureCode.CONTEXT_OVERFLOW
    await backend.close()


async def test_its_options(farm: Farm) -> None:
    server = FakeOllama()
    backend = await backend_of(farm, server)
    await read(backend, wish(sampling=Sampling(temperature=0.5, top_k=7, repeat_penalty=1.2, seed=3), max_tokens=None))
    options = server.bodies("/api/generate")[-1]["options"]
    assert (options["top_k"], options["repeat_penalty"], options["seed"], options["num_predict"]) == (7, 1.2, 3, -1)
    assert (options["top_p"], options["min_p"]) == (1.0, 0.0), "its own defaults are others"
    await backend.close()


async def test_thoughts_and_calls(farm: Farm) -> None:
    server = FakeOllama()
    server.thoughts, server.script, server.calls = "let me see", TOY.tokenize("ok."), [("weather", {"city": "Oslo"})]
    backend = await backend_of(farm, server)
    tool = msgspec.Raw(b'{"type":"function","function":{"name":"weather"}}')
    text = text_of(await read(backend, wish(prompt=Prompt(messages=HI.messages, tools=[tool]))))
    assert text.startswith("<think>\nlet me see \n</think>\n\nok.")
    stream = ToolCallStream({"weather": {}})
    deltas = stream.feed(text) + stream.finish()
    assert [delta.name for delta in deltas if isinstance(delta, ToolCallStart)] == ["weather"]
    arguments = "".join(delta.text for delta in deltas if isinstance(delta, ToolCallArguments))
    assert json.loads(arguments) == {"city": "Oslo"}
    await backend.close()


async def test_thinking_can_be_turned_off(farm: Farm) -> None:
    server = FakeOllama()
    backend = await backend_of(farm, server)
    await read(backend, wish(prompt=Prompt(messages=HI.messages, template_args={"enable_thinking": False})))
    assert server.bodies("/api/chat")[-1]["think"] is False
    await read(backend, wish(prompt=Prompt(messages=HI.messages, prefill="Sure")))
    assert server.bodies("/api/chat")[-1]["messages"][-1] == {"role": "assistant", "content": "Sure"}
    await backend.close()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": Prompt(tokens=[1, 2])}, "prompt"),
        ({"ignore_eos": True}, "ignore_eos"),
        ({"logprobs": 3}, "logprobs"),
        ({"sampling": Sampling(logit_bias={3: 1.0})}, "logit_bias"),
        ({"sampling": Sampling(dry_multiplier=0.5)}, "dry_multiplier"),
        ({"grammar": Grammar(kind=GrammarKind.GBNF, text="x")}, "grammar"),
        ({"prompt": Prompt(messages=HI.messages, template_args={"date": "now"})}, "chat_template_kwargs"),
    ],
)
async def test_what_it_has_no_way_to_do(farm: Farm, fields: dict[str, object], field: str) -> None:
    backend = await backend_of(farm, FakeOllama())
    with pytest.raises(TwdError) as caught:
        await read(backend, wish(**fields))  # type: ignore[arg-type]
    assert caught.value.code is FailureCode.UNSUPPORTED
    assert caught.value.failure.field == field
    await backend.close()


async def test_a_call_whose_arguments_are_no_json(farm: Farm) -> None:
    backend = await backend_of(farm, FakeOllama())
    call = ToolCall(id="1", name="x", arguments="{not json")
    talk = Prompt(messages=[ChatMessage(role="assistant", tool_calls=[call])])
    with pytest.raises(TwdError) as caught:
        await read(backend, wish(prompt=talk))
    assert caught.value.code is FailureCode.BAD_REQUEST
    await backend.close()
