"""What is particular to llama-server."""

import pytest

from tests.backends.fakes.llama_server import FakeLlamaServer
from tests.backends.fakes.server import Farm
from tests.backends.fakes.toy import TOY
from tests.backends.rigs import read, text_of, wish
from twd.backends.clients.llama_server import LlamaServerClient
from twd.backends.clients.upstream import UpstreamServer
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import ChatMessage, FinishReason, Grammar, GrammarKind, Prompt, Sampling

HI = Prompt(messages=[ChatMessage(role="user", content="hi")])


async def test_what_it_tells_of_itself(farm: Farm) -> None:
    server = FakeLlamaServer()
    await farm.add(server)
    backend = LlamaServerClient(UpstreamServer(server.url + "/v1"))
    can = await backend.probe()
    assert (can.tokens, can.score, can.chat, can.context, can.slots) == (True, False, True, 4096, 4)
    assert (can.quantization, can.parameters, can.vocabulary) == ("Q4_K_M", 1000, TOY.size)
    assert "guesses would bring nothing" in can.use
    await backend.close()


async def test_a_model_that_is_still_loading(farm: Farm) -> None:
    server = FakeLlamaServer()
    server.loading = True
    await farm.add(server)
    backend = LlamaServerClient(UpstreamServer(server.url))
    with pytest.raises(TwdError, match="Loading model") as caught:
        await backend.probe()
    assert caught.value.code is FailureCode.BUSY
    await backend.close()


async def test_all_sampling_parameters_are_sent_for_its_defaults_are_others(farm: Farm) -> None:
    server = FakeLlamaServer()
    await farm.add(server)
    backend = LlamaServerClient(UpstreamServer(server.url), "toy")
    await read(backend, wish(sampling=Sampling(temperature=0.5, seed=3, dry_multiplier=0.8), ignore_eos=True))
    body = server.bodies("/completion")[-1]
    assert (body["top_k"], body["top_p"], body["min_p"], body["repeat_penalty"], body["dry_multiplier"]) == (
        0,
        1.0,
        0.0,
        1.0,
        0.8,
    )
    assert body["ignore_eos"] is True
    await read(backend, wish(prompt=HI, grammar=Grammar(kind=GrammarKind.GBNF, text='root ::= "a"')))
    body = server.bodies("/chat/completions")[-1]
    assert body["grammar"] == 'root ::= "a"'
    assert body["reasoning_format"] == "none"
    await backend.close()


async def test_how_a_text_ended(farm: Farm) -> None:
    server = FakeLlamaServer()
    server.script = TOY.tokenize(" it is so")
    await farm.add(server)
    backend = LlamaServerClient(UpstreamServer(server.url), "toy")
    end = (await read(backend, wish(stop=(" so",))))[-1]
    assert (end.end, end.stop) == (FinishReason.STOP, " so")
    assert end.usage is not None
    assert end.usage.cached > 0
    assert (await read(backend, wish(max_tokens=1)))[-1].end is FinishReason.LENGTH
    await backend.close()


async def test_log_probabilities_have_their_ids(farm: Farm) -> None:
    server = FakeLlamaServer()
    server.script = TOY.tokenize(" it is")
    await farm.add(server)
    backend = LlamaServerClient(UpstreamServer(server.url), "toy")
    pieces = await read(backend, wish(logprobs=2))
    assert [entry.token for piece in pieces for entry in piece.logprobs] == server.script
    await backend.close()


async def test_an_overfull_context(farm: Farm) -> None:
    server = FakeLlamaServer()
    await farm.add(server)
    backend = LlamaServerClient(UpstreamServer(server.url), "toy")
    with pytest.raises(TwdError) as caught:
        await read(backend, wish(prompt=Prompt(tokens=[1] * 5000)))
    assert caught.value.code is FailureCode.CONTEXT_OVERFLOW
    await backend.close()


async def test_a_conversation_becomes_tokens(farm: Farm) -> None:
    server = FakeLlamaServer()
    await farm.add(server)
    backend = LlamaServerClient(UpstreamServer(server.url), "toy")
    wanted = TOY.tokenize(TOY.render([{"role": "user", "content": "hi"}]), special=True)
    assert await backend.render(HI) == wanted
    assert text_of(await read(backend, wish(prompt=Prompt(tokens=wanted)))) == text_of(
        await read(backend, wish(prompt=HI))
    )
    await backend.close()
