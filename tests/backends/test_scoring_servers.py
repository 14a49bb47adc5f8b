"""What is particular to vLLM and SGLang: scores are believed only when they fit the prompt."""

import pytest

from tests.backends.fakes.gpu_servers import FakeSglang, FakeVllm
from tests.backends.fakes.server import Farm
from tests.backends.fakes.toy import TOY
from tests.backends.rigs import read, text_of, wish
from twd.backends.clients.sglang import SglangClient
from twd.backends.clients.upstream import UpstreamServer
from twd.backends.clients.vllm import VllmClient
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import ChatMessage, Prompt, Sampling

HI = Prompt(messages=[ChatMessage(role="user", content="hi")])


@pytest.mark.parametrize(("server", "adapter"), [(FakeVllm(), VllmClient), (FakeSglang(), SglangClient)])
async def test_scores_of_other_tokens_are_refused(farm: Farm, server: FakeVllm, adapter: type[VllmClient]) -> None:
    await farm.add(server)
    server.shift = 1
    backend = adapter(UpstreamServer(server.url), "toy")
    with pytest.raises(TwdError, match="other tokens") as caught:
        await backend.score(list(range(300, 306)), 2)
    assert caught.value.code is FailureCode.BACKEND_BROKEN
    assert not (await backend.probe()).score, "and it is not a target then"
    await backend.close()


@pytest.mark.parametrize(("server", "adapter"), [(FakeVllm(), VllmClient), (FakeSglang(), SglangClient)])
async def test_given_tokens_are_weighed(farm: Farm, server: FakeVllm, adapter: type[VllmClient]) -> None:
    await farm.add(server)
    backend = adapter(UpstreamServer(server.url), "toy")
    assert (await backend.probe()).weighs
    start = TOY.tokenize("once upon")
    truth = TOY.generate(start, 6)
    other = 300 if truth[3] != 300 else 301
    weights, choice = await backend.weigh([*start, *truth[:3], other], len(start) - 1)
    assert [weight.choice for weight in weights[:4]] == truth[:4]
    assert [weight.choice_logprob - weight.logprob for weight in weights] == pytest.approx([0, 0, 0, 3.4])
    assert all(0.0 < weight.entropy < 1.0 for weight in weights)
    assert choice == TOY.next([*start, *truth[:3], other])
    await backend.close()


@pytest.mark.parametrize("chance", ["NaN", "Infinity", "-Infinity"])
async def test_chances_that_are_no_numbers_judge_nothing(farm: Farm, chance: str) -> None:
    server = FakeVllm()
    await farm.add(server)
    backend = VllmClient(UpstreamServer(server.url), "toy")
    server._told = lambda tokens, place: {str(tokens[place]): {"logprob": float(chance), "rank": 1}}  # type: ignore[method-assign]
    with pytest.raises(TwdError) as caught:
        await backend.weigh([300, 301, 302], 0)
    assert caught.value.code is FailureCode.BACKEND_BROKEN
    await backend.close()


async def test_ids_that_are_not_told_are_not_made_up(farm: Farm) -> None:
    server = FakeVllm()
    await farm.add(server)
    backend = VllmClient(UpstreamServer(server.url), "toy")
    server._choose_once = _without_ids(server)  # type: ignore[method-assign]
    with pytest.raises(TwdError, match="id of the token"):
        await backend.score([300, 301], 0)
    assert not (await backend.probe()).score
    await backend.close()


def _without_ids(server: FakeVllm):  # type: ignore[no-untyped-def]
    plain = server._choose_once
    return lambda body: plain(body | {"return_tokens_as_token_ids": False})


async def test_what_they_are_used_for(farm: Farm) -> None:
    vllm, sglang = FakeVllm(), FakeSglang()
    await farm.add(vllm)
    await farm.add(sglang)
    first, second = VllmClient(UpstreamServer(vllm.url)), SglangClient(UpstreamServer(sglang.url))
    can = await first.probe()
    assert (can.score, can.tokens, can.renders, can.context, can.version) == (True, True, True, 4096, "0.15.0")
    assert can.can_verify
    assert "can check guesses" in can.use
    can = await second.probe()
    assert (can.score, can.tokens, can.renders, can.version) == (True, True, False, "0.5.6")
    assert not can.can_verify
    assert "cannot turn conversations into tokens" in can.use
    await first.close()
    await second.close()


async def test_a_conversation_becomes_tokens(farm: Farm) -> None:
    server = FakeVllm()
    await farm.add(server)
    backend = VllmClient(UpstreamServer(server.url), "toy")
    wanted = TOY.tokenize(TOY.render([{"role": "user", "content": "hi"}]), special=True)
    assert await backend.render(HI) == wanted
    prefilled = Prompt(messages=HI.messages, prefill="Sure")
    assert await backend.render(prefilled) == wanted + TOY.tokenize("Sure")
    assert await backend.render(Prompt(text="once")) == TOY.tokenize("once")
    assert await backend.render(Prompt(tokens=[5, 6])) == [5, 6]
    await backend.close()


@pytest.mark.parametrize("cumulative", [True, False])
async def test_sglang_may_repeat_or_not(farm: Farm, cumulative: bool) -> None:
    server = FakeSglang()
    server.cumulative = cumulative
    await farm.add(server)
    backend = SglangClient(UpstreamServer(server.url), "toy")
    prompt = TOY.tokenize("once upon")
    server.script = TOY.tokenize(" it it it 👋 is it 👋")
    pieces = await read(backend, wish(prompt=Prompt(tokens=prompt), max_tokens=40))
    assert text_of(pieces) == " it it it 👋 is it 👋"
    assert [token for piece in pieces for token in piece.tokens] == server.script
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.completion == len(server.script)
    await backend.close()


async def test_a_text_that_sglang_gave_up_is_not_whole(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeSglang()
    aborted = {"type": "abort", "message": "no memory is left", "status_code": 503}
    monkeypatch.setattr(server, "_finish", lambda *asked: aborted)
    await farm.add(server)
    backend = SglangClient(UpstreamServer(server.url), "toy")
    with pytest.raises(TwdError, match="gave up in the middle: no memory is left"):
        await read(backend, wish(prompt=Prompt(tokens=TOY.tokenize("once upon")), max_tokens=4))
    await backend.close()


async def test_their_own_defaults_are_overruled(farm: Farm) -> None:
    server = FakeVllm()
    await farm.add(server)
    backend = VllmClient(UpstreamServer(server.url), "toy")
    await read(backend, wish(prompt=HI, sampling=Sampling(temperature=0.5, seed=1)))
    body = server.bodies("/completions")[-1]
    assert {name: body[name] for name in ("top_k", "top_p", "min_p", "repetition_penalty")} == {
        "top_k": -1,
        "top_p": 1.0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    }
    await backend.close()
