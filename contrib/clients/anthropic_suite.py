"""The official anthropic client against a running demo's /v1/messages."""

import asyncio
from typing import Any

from anthropic import Anthropic, AsyncAnthropic, BadRequestError, NotFoundError
from suite import MODEL, STREAMS_DIFFER, Suite, base_url, refused

URL = base_url()
CLIENT = Anthropic(base_url=URL, api_key="none", max_retries=0, timeout=120)
SUITE = Suite("anthropic")
HI: list[Any] = [{"role": "user", "content": "Name three colours."}]
WEATHER: Any = {
    "name": "weather",
    "description": "The weather in a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 9}},
        "required": ["city"],
    },
}


def wanted(fields: dict[str, Any]) -> dict[str, Any]:
    """A request for a short answer; how to sample is no argument of the client's any more, but of its extra body."""
    given = {"model": MODEL, "messages": HI, "max_tokens": 10, "temperature": 0} | fields
    sampling = {name: given.pop(name) for name in ("temperature", "top_p", "top_k") if name in given}
    return {**given, "extra_body": sampling | given.get("extra_body", {})}


def said(**fields: Any) -> Any:
    """A short answer."""
    return CLIENT.messages.create(**wanted(fields))


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def streamed(**fields: Any) -> tuple[str, Any]:
    with CLIENT.messages.stream(**wanted(fields)) as stream:
        return "".join(stream.text_stream), stream.get_final_message()


def whole_equals_stream(fields: dict[str, Any]) -> None:
    text, final = streamed(**fields)
    assert text == text_of(final)
    assert text == text_of(said(**fields)) or STREAMS_DIFFER
    assert final.stop_reason in ("end_turn", "max_tokens", "stop_sequence")


def counted(limit: int) -> None:
    message = said(max_tokens=limit)
    assert message.usage.output_tokens <= limit
    if message.stop_reason == "max_tokens":
        assert message.usage.output_tokens == limit


def stopped(stops: list[str]) -> None:
    message = said(max_tokens=24, stop_sequences=stops)
    assert not any(stop in text_of(message) for stop in stops)
    assert message.stop_reason != "stop_sequence" or message.stop_sequence in stops


def called(choice: Any, stream: bool) -> None:
    fields = {"tools": [WEATHER], "tool_choice": choice, "max_tokens": 120}
    message = streamed(**fields)[1] if stream else said(**fields)
    calls = [block for block in message.content if block.type == "tool_use"]
    assert message.stop_reason == "tool_use"
    assert calls[0].name == "weather"
    assert isinstance(calls[0].input["city"], str)


def tool_answers() -> None:
    use = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"}
    talk = [*HI, {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    assert said(messages=talk, tools=[WEATHER]).role == "assistant"


def raw_events() -> None:
    kinds = [event.type for event in said(stream=True)]
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert {"content_block_start", "content_block_delta", "content_block_stop", "message_delta"} <= set(kinds)


def tokens_of(talk: list[Any]) -> int:
    count = CLIENT.messages.count_tokens(model=MODEL, messages=talk).input_tokens
    usage = said(messages=talk, max_tokens=1).usage
    assert count == usage.input_tokens + usage.cache_read_input_tokens
    return int(count)


def longer_counts_more() -> None:
    more = [{"role": "user", "content": "Name three colours, and then three fishes, please."}]
    assert tokens_of(more) > tokens_of(HI)


async def _many() -> None:
    async with AsyncAnthropic(base_url=URL, api_key="none", max_retries=0, timeout=120) as client:
        calls = [client.messages.create(model=MODEL, messages=HI, max_tokens=5) for _ in range(5)]
        assert all(message.content is not None for message in await asyncio.gather(*calls))


def build() -> None:
    """All calls."""
    add, each = SUITE.add, SUITE.each
    each("model", [MODEL, "default", "twd"], lambda model: said(model=model))
    each("max_tokens", range(1, 9), counted)
    options = [{}, {"system": "Be kind."}, {"top_k": 1}, {"stop_sequences": ["\n"]}, {"max_tokens": 20}]
    each("stream equals whole", options, whole_equals_stream)
    each("temperature", [0, 0.1, 0.5, 0.9, 1], lambda t: said(temperature=t))
    each("top_p", [0.1, 0.5, 1], lambda p: said(top_p=p, temperature=1))
    each("top_k", [1, 5, 50], lambda k: said(top_k=k, temperature=1))
    each("stop_sequences", [["\n"], ["a"], ["a", "e", "i", "o"]], stopped)
    each("system", ["Be brief.", [{"type": "text", "text": "Be kind."}]], lambda system: said(system=system))
    parts = [[{"type": "text", "text": "Hi"}], [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]]
    each("content blocks", parts, lambda content: said(messages=[{"role": "user", "content": content}]))
    talk = [*HI, {"role": "assistant", "content": "Red."}, {"role": "user", "content": "And?"}]
    add("a longer talk", lambda: said(messages=talk))
    add("a begun answer", lambda: said(messages=[*HI, {"role": "assistant", "content": "Red, blue and"}]))
    each("metadata", [{"user_id": "u1"}, {"user_id": "u2"}], lambda data: said(metadata=data))
    auto, any_, named = {"type": "auto"}, {"type": "any"}, {"type": "tool", "name": "weather"}
    each("forced call", [(any_, False), (any_, True), (named, False), (named, True)], called)
    each("tool_choice", [auto, {"type": "none"}], lambda choice: said(tools=[WEATHER], tool_choice=choice))
    add("tool answers", tool_answers)
    add("events", raw_events)
    each("count_tokens", [HI, talk], tokens_of)
    add("longer counts more", longer_counts_more)
    each("many at once", [1, 2], lambda turn: asyncio.run(_many()))
    each(
        "languages", ["Grüße", "你好", "👋🏽", "مرحبا"], lambda hi: streamed(messages=[{"role": "user", "content": hi}])
    )
    add("unknown model", lambda: refused(lambda: said(model="nothing"), NotFoundError, "nothing"))
    bad = [{"temperature": 3}, {"max_tokens": 0}, {"messages": []}, {"top_p": 2}, {"extra_body": {"colour": 1}}]
    each("refused", bad, lambda fields: refused(lambda: said(**fields), BadRequestError))


if __name__ == "__main__":
    build()
    raise SystemExit(SUITE.run())
