"""Tokens without ids: where they stand in a text, and scores that hold whatever way the server cuts it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.backends.fakes.openai_server import OpenAiServer
from tests.backends.fakes.server import Farm
from tests.backends.fakes.toy import EMOJI, TOY
from tests.backends.rigs import echoing
from twd.backends.clients.base import UNKNOWN
from twd.backends.clients.echo import EchoClient, places
from twd.backends.clients.upstream import UpstreamServer
from twd.wire.failures import FailureCode, TwdError

TEXT = st.text(alphabet=" abcé👋語", max_size=24)


@given(TEXT, st.lists(st.integers(0, 100), max_size=12), st.sampled_from([[], ["<s>"], ["<s>", "[X]"]]), TEXT)
def test_every_place_that_is_told_is_right(text: str, cuts: list[int], front: list[str], written: str) -> None:
    raw = text.encode()
    edges = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})
    pieces = [raw[a:b] for a, b in pairwise(edges)]
    tokens = [*front, *(piece.decode("utf-8", "replace") for piece in pieces), written or "<end>"]
    starts = places(tokens, text, written)
    assert len(starts) == len(tokens)
    assert starts[-1] == len(text)
    whole = not any("\ufffd" in token for token in tokens)
    for edge, piece, start in zip(edges, pieces, starts[len(front) :], strict=False):
        if start >= 0 or whole:
            assert raw[:edge].decode() == text[:start], piece


def test_nothing_is_certain_before_a_half() -> None:
    assert places(["one", " two", " more"], "one two", " more") == [0, 3, 7]
    assert places(["one", " two"], "one two", "") == [0, 3]
    assert places(["<s>", "one", "<end>"], "one", "") == [-1, 0, 3]
    assert places(["x", "\ufffd", "\ufffd", " a", "\ufffd"], f"x{EMOJI} a", "") == [-1, -1, -1, 2, 4]
    assert places(["one", " three"], "one two", "") == [-1, 7]


async def backend_of(farm: Farm, server: OpenAiServer) -> EchoClient:
    """A started server and its adapter."""
    await farm.add(server)
    return EchoClient(UpstreamServer(server.url, timeout_s=2), "toy")


async def test_whether_it_echoes_is_tried(farm: Farm) -> None:
    can = await (backend := await backend_of(farm, OpenAiServer())).probe()
    assert (can.score, can.tokens, can.renders) == (False, False, False)
    await backend.close()
    can = await (backend := await backend_of(farm, echoing())).probe()
    assert (can.score, can.tokens, can.renders) == (True, False, False)
    assert "cannot turn conversations into tokens" in can.use
    await backend.close()


async def test_a_cut_in_another_place_is_no_answer(farm: Farm) -> None:
    backend = await backend_of(farm, echoing())
    tokens = [*await backend.tokenize("one"), backend._id(" th"), backend._id("e two")]
    choices = await backend.score(tokens, 0)
    wanted = [TOY.spelled(TOY.next(TOY.tokenize(text))) for text in ("one", "one the two")]
    assert await backend.detokenize([choices[0]]) == wanted[0]
    assert choices[1] == UNKNOWN
    assert await backend.detokenize([choices[2]]) == wanted[1]
    await backend.close()


async def test_a_character_in_parts_is_completed(farm: Farm) -> None:
    backend = await backend_of(farm, echoing())
    halves = TOY.tokenize(EMOJI)
    start = next([300, word] for word in TOY.words if TOY.next([300, word]) == halves[0])
    tokens = await backend.tokenize(TOY.text(start))
    (choice,) = await backend.score(tokens, len(tokens) - 1)
    assert await backend.detokenize([choice]) == EMOJI
    both = [*tokens, choice]
    assert (await backend.score(both, len(tokens) - 1))[0] == UNKNOWN, "a half of a character is not made up"
    await backend.close()


async def test_strange_ids_are_refused(farm: Farm) -> None:
    backend = await backend_of(farm, echoing())
    with pytest.raises(TwdError) as caught:
        await backend.score([5000, 5001], 0)
    assert caught.value.code is FailureCode.BAD_REQUEST
    await backend.close()
