"""A value that is none of those that a field may have is answered with those."""

import json
from typing import Any

import pytest

from twd.edge.anthropic.types import MessagesRequest
from twd.edge.http.validation import read_request
from twd.edge.openai.types import ChatRequest
from twd.wire.failures import TwdError

ASKED = [{"role": "user", "content": "x"}]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"messages": [{"role": "king", "content": "x"}]}, "one of system, developer, user, assistant, tool"),
        ({"messages": ASKED, "tool_choice": "x"}, "`tool_choice`; it is one of auto, none, required"),
        ({"messages": ASKED, "response_format": {"type": "xml"}}, "one of text, json_object, json_schema"),
        ({"messages": ASKED, "modalities": ["audio"]}, "`modalities[0]`; it is one of text"),
        ({"messages": ASKED, "max_tokens": "x"}, "Expected `int | null`, got `str` - at `max_tokens`"),
    ],
)
def test_what_may_stand_there_is_named(body: dict[str, Any], told: str) -> None:
    with pytest.raises(TwdError) as refused:
        read_request(ChatRequest, json.dumps(body).encode())
    assert str(refused.value).endswith(told)


def test_anthropics_requests_are_answered_alike() -> None:
    body = {"model": "m", "max_tokens": 1, "messages": [{"role": "system", "content": "x"}]}
    with pytest.raises(TwdError, match="it is one of assistant, user"):
        read_request(MessagesRequest, json.dumps(body).encode())
