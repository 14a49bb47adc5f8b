"""One contract for all adapters: the same texts, limits, ends and failures, whatever server is behind."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

import pytest

from tests.backends.fakes.server import Farm, Server
from tests.backends.fakes.toy import EMOJI, TOY
from tests.backends.rigs import RIGS, Rig, read, text_of, wish
from tests.waiting import until
from twd.backends.clients.base import Backend
from twd.backends.clients.upstream import UpstreamServer
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import ChatMessage, FinishReason, Grammar, GrammarKind, Prompt, Sampling, ToolCall

TALK = [
    ChatMessage(role="system", content="Be brief."),
    ChatMessage(role="user", content="hi"),
    ChatMessage(role="assistant", content="hello"),
    ChatMessage(role="user", content="more"),
]
MOMENT_S = 0.4
PATIENCE_S = 20.0


@dataclass
class Pair:
    """A fake server and the adapter that talks to it."""

    rig: Rig
    server: Server
    backend: Backend

    async def upset(self, mode: str) -> None:
        """From now on the server does this; where it would be silent, it is waited for only a moment."""
        self.server.faults.mode = mode
        if mode in ("hang", "stall"):
            await self.backend.upstream.close()
            self.backend.upstream.timeout_s = MOMENT_S


@pytest.fixture(params=list(RIGS))
async def pair(request: pytest.FixtureRequest, farm: Farm) -> AsyncIterator[Pair]:
    """Each adapter in turn, already probed."""
    rig = RIGS[request.param]
    server = rig.server()
    await farm.add(server)
    backend = rig.backend(UpstreamServer(server.url, timeout_s=PATIENCE_S), "")
    assert (await backend.probe()).model.removesuffix(":latest") == "toy"
    yield Pair(rig, server, backend)
    await backend.close()


async def failure(pair: Pair, **fields: object) -> TwdError:
    """What a text ends with that cannot be made."""
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(TwdError) as caught:
            await read(pair.backend, wish(**fields))  # type: ignore[arg-type]
    return caught.value


# -- texts -------------------------------------------------------------------------------------


async def test_a_text_is_continued(pair: Pair) -> None:
    prompt = TOY.tokenize("once upon")
    pieces = await read(pair.backend, wish(max_tokens=40))
    wanted = TOY.generate(prompt, 40)
    assert text_of(pieces) == TOY.shown(wanted)
    assert [piece.end for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].end is (FinishReason.LENGTH if len(wanted) == 40 else FinishReason.STOP)
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.completion == len(wanted)
    assert pieces[-1].usage.prompt == len(prompt)


async def test_a_conversation_is_answered(pair: Pair) -> None:
    pieces = await read(pair.backend, wish(prompt=Prompt(messages=TALK), max_tokens=9))
    rendered = TOY.render([{"role": m.role, "content": m.content} for m in TALK])
    wanted = TOY.generate(TOY.tokenize(rendered, special=True), 9)
    assert text_of(pieces) == TOY.shown(wanted)
    body = pair.server.bodies(pair.rig.chats_at)[-1]
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize("limit", [1, 2, 7])
async def test_the_limit_is_exact(pair: Pair, limit: int) -> None:
    pair.server.script = list(TOY.words[:20])
    pieces = await read(pair.backend, wish(max_tokens=limit))
    assert text_of(pieces) == TOY.text(TOY.words[:limit])
    assert pieces[-1].end is FinishReason.LENGTH


async def test_pieces_come_as_they_are_made(pair: Pair) -> None:
    pair.server.script = list(TOY.words[:9])
    pair.server.hold_after = 3
    async with aclosing(pair.backend.stream(wish())) as stream:
        first = await anext(stream)
        assert first.text
        assert not pair.server.release.is_set()
        pair.server.release.set()
        rest = [piece async for piece in stream]
    assert first.text + text_of(rest) == TOY.text(TOY.words[:9])


async def test_characters_are_never_split(pair: Pair) -> None:
    pair.server.script = TOY.tokenize(f"a{EMOJI}b{EMOJI}")
    assert text_of(await read(pair.backend, wish())) == f"a{EMOJI}b{EMOJI}"


async def test_a_stop_string_ends_the_text(pair: Pair) -> None:
    pair.server.script = TOY.tokenize(" one two now many")
    pieces = await read(pair.backend, wish(stop=("o no", "w m")))
    assert text_of(pieces) == " one tw"
    assert pieces[-1].end is FinishReason.STOP


async def test_seed_and_temperature_get_there(pair: Pair) -> None:
    prompt = TOY.tokenize("once upon")
    asked = wish(sampling=Sampling(temperature=0.7, seed=2**40 + 11))
    assert text_of(await read(pair.backend, asked)) == TOY.shown(TOY.generate(prompt, 12, seed=(2**40 + 11) % 2**31))


async def test_a_text_may_end_at_once(pair: Pair) -> None:
    pair.server.script = []
    pieces = await read(pair.backend, wish())
    assert text_of(pieces) == ""
    assert pieces[-1].end is FinishReason.STOP


async def test_json_may_be_asked_for(pair: Pair) -> None:
    schema = '{"type":"object","properties":{"a":{"type":"integer"}}}'
    await read(pair.backend, wish(grammar=Grammar(kind=GrammarKind.JSON_SCHEMA, text=schema)))
    await read(pair.backend, wish(grammar=Grammar(kind=GrammarKind.JSON)))
    bodies = pair.server.bodies(pair.rig.completes_at)
    assert '"properties"' in str(bodies[-2]).replace("'", '"')
    assert "json" in str(bodies[-1])


async def test_an_earlier_call_of_a_tool_is_told(pair: Pair) -> None:
    call = ToolCall(id="c1", name="weather", arguments='{"city":"Oslo"}')
    talk = [
        ChatMessage(role="user", content="weather?"),
        ChatMessage(role="assistant", tool_calls=[call]),
        ChatMessage(role="tool", content="rain", tool_call_id="c1"),
    ]
    await read(pair.backend, wish(prompt=Prompt(messages=talk)))
    told = pair.server.bodies(pair.rig.chats_at)[-1]["messages"]
    assert told[1]["tool_calls"][0]["function"]["name"] == "weather"
    assert "Oslo" in str(told[1]["tool_calls"][0]["function"]["arguments"])
    assert told[2]["role"] == "tool"


# -- hanging up --------------------------------------------------------------------------------


async def test_who_stops_reading_hangs_up(pair: Pair) -> None:
    pair.server.script = list(TOY.words[:50])
    pair.server.hold_after = 4
    async with aclosing(pair.backend.stream(wish(max_tokens=50))) as stream:
        await anext(stream)
    await until(lambda: pair.server.cut_off == 1)
    assert pair.server.streaming == 0


async def test_who_is_cancelled_hangs_up(pair: Pair) -> None:
    pair.server.faults.mode = "hang"
    task = asyncio.ensure_future(read(pair.backend, wish()))  # noqa: TID251 - a reader of the test
    await until(lambda: pair.server.streaming == 1)
    task.cancel()
    await until(lambda: pair.server.cut_off == 1)


# -- failures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["500", "html", "broken_json", "wrong_shape", "empty", "redirect", "gzip", "huge"])
async def test_nonsense_is_a_broken_backend(pair: Pair, mode: str) -> None:
    pair.server.faults.mode = mode
    assert (await failure(pair)).code is FailureCode.BACKEND_BROKEN


@pytest.mark.parametrize("mode", ["die", "rubbish", "mute", "flood"])
async def test_a_text_that_breaks_off(pair: Pair, mode: str) -> None:
    pair.server.faults.mode = mode
    assert (await failure(pair)).code is FailureCode.BACKEND_BROKEN


async def test_an_error_in_mid_stream_is_told_in_its_words(pair: Pair) -> None:
    pair.server.faults.mode = "error"
    error = await failure(pair)
    assert error.code is FailureCode.BACKEND_BROKEN
    assert "CUDA out of memory" in str(error)


@pytest.mark.parametrize("mode", ["hang", "stall"])
async def test_silence_has_an_end(pair: Pair, mode: str) -> None:
    await pair.upset(mode)
    error = await failure(pair)
    assert error.code is FailureCode.DEADLINE
    assert f"{MOMENT_S:g} s" in str(error)


@pytest.mark.parametrize(("mode", "code"), [("429", FailureCode.BUSY), ("503", FailureCode.BUSY)])
async def test_a_busy_server_may_be_asked_again(pair: Pair, mode: str, code: FailureCode) -> None:
    pair.server.faults.mode = mode
    error = await failure(pair)
    assert error.code is code
    assert error.failure.retry


async def test_a_server_that_is_gone(pair: Pair) -> None:
    await pair.server.stop()
    assert (await failure(pair)).code is FailureCode.BACKEND_DOWN
    with pytest.raises(TwdError) as caught:
        await pair.backend.probe()
    assert caught.value.code is FailureCode.BACKEND_DOWN


@pytest.mark.parametrize("mode", ["500", "hang", "html", "broken_json", "wrong_shape", "empty", "huge", "gzip"])
async def test_a_probe_that_fails_says_so(pair: Pair, mode: str) -> None:
    await pair.upset(mode)
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(TwdError):
            await pair.backend.probe()


async def test_a_model_that_is_not_there(pair: Pair) -> None:
    other = pair.rig.backend(UpstreamServer(pair.server.url), "nothing")
    if pair.backend.kind == "llamacpp":
        assert (await other.probe()).model == "nothing"  # it serves its one model under any name
    else:
        with pytest.raises(TwdError, match="toy"):
            await other.probe()
    await other.close()


async def test_what_it_cannot_do_is_refused(pair: Pair) -> None:
    can = await pair.backend.probe()
    if not can.score:
        with pytest.raises(TwdError) as caught:
            await pair.backend.score([1, 2, 3], 1)
        assert caught.value.code is FailureCode.UNSUPPORTED
    if not can.tokens and not can.score:
        with pytest.raises(TwdError) as caught:
            await pair.backend.tokenize("x")
        assert caught.value.code is FailureCode.UNSUPPORTED


# -- tokens and scores -------------------------------------------------------------------------


async def test_tokens_go_in_and_come_out(pair: Pair) -> None:
    can = await pair.backend.probe()
    if not can.tokens:
        pytest.skip(f"{can.kind} knows no tokens")
    prompt = TOY.tokenize("once upon")
    assert await pair.backend.tokenize("once upon") == prompt
    assert await pair.backend.detokenize(prompt) == "once upon"
    pieces = await read(pair.backend, wish(prompt=Prompt(tokens=prompt), max_tokens=12))
    wanted = TOY.generate(prompt, 12)
    assert [token for piece in pieces for token in piece.tokens] == wanted
    assert text_of(pieces) == TOY.shown(wanted)


async def test_scores_are_what_the_model_would_choose(pair: Pair) -> None:
    can = await pair.backend.probe()
    if not can.score:
        pytest.skip(f"{can.kind} does not score")
    prompt = TOY.tokenize("once upon a time")
    whole = [*prompt, *TOY.generate(prompt, 3), 300, 301]
    tokens = await pair.backend.tokenize(TOY.text(whole))
    assert len(tokens) == len(whole)
    asked = len(pair.server.seen)
    choices = await pair.backend.score(tokens, len(prompt) - 1)
    assert len(pair.server.seen) == asked + 1, "in one request"
    wanted = [TOY.next(whole[:count]) for count in range(len(prompt), len(whole) + 1)]
    texts = [await pair.backend.detokenize([choice]) for choice in choices]
    assert [text.strip() for text in texts] == [TOY.spelled(token).strip() for token in wanted]
    assert await pair.backend.score(tokens, len(tokens) - 1) == choices[-1:]
    assert (await pair.backend.score(tokens, 0))[len(prompt) - 1 :] == choices


async def test_the_end_of_a_text_is_known(pair: Pair) -> None:
    can = await pair.backend.probe()
    if not can.score:
        pytest.skip(f"{can.kind} does not score")
    end = TOY.control["<|im_end|>"]
    last = next([300, word] for word in TOY.words if TOY.next([300, word]) == end)
    tokens = await pair.backend.tokenize(TOY.text(last))
    (choice,) = await pair.backend.score(tokens, 1)
    assert await pair.backend.is_end(tokens, choice)
    tokens = await pair.backend.tokenize(TOY.text([300, 301]))
    (choice,) = await pair.backend.score(tokens, 1)
    assert not await pair.backend.is_end(tokens, choice)


@pytest.mark.parametrize("mode", ["500", "hang", "broken_json", "wrong_shape", "empty", "html"])
async def test_scores_that_make_no_sense(pair: Pair, mode: str) -> None:
    can = await pair.backend.probe()
    if not can.score:
        pytest.skip(f"{can.kind} does not score")
    tokens = await pair.backend.tokenize("one two")
    await pair.upset(mode)
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(TwdError) as caught:
            await pair.backend.score(tokens, 0)
    assert caught.value.code in (FailureCode.BACKEND_BROKEN, FailureCode.DEADLINE)
