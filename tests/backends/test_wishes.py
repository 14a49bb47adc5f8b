"""What a job asks of somebody else's server, and what is left to that server."""

from typing import cast

import pytest

from tests.backends.listener import job
from twd.backends.clients.base import Backend, wish_of
from twd.backends.verifier.target import sampler_for
from twd.backends.verifier.token_texts import PieceReader, TokenTexts
from twd.wire.job import Grammar, GrammarKind

WHOLE = Grammar(kind=GrammarKind.JSON)
CALLS = Grammar(kind=GrammarKind.JSON, begins="<tool_call>", ends="</tool_call>")


@pytest.mark.parametrize(("grammar", "asked"), [(None, None), (WHOLE, WHOLE), (CALLS, None)])
def test_to_hold_calls_to_their_schemas_is_for_whoever_gets_the_tools(
    grammar: Grammar | None, asked: Grammar | None
) -> None:
    wanted = job(grammar=grammar)
    assert wish_of(wanted).grammar == asked
    assert sampler_for(wanted, 1, PieceReader(TokenTexts(cast(Backend, None)))).grammar == asked
