"""litellm, which speaks OpenAI's dialect to anything, against a running demo."""

import asyncio
import json
import math
import os
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks another host for prices

import litellm
from suite import MODEL, STREAMS_DIFFER, Suite, base_url, refused

URL = base_url()
SUITE = Suite("litellm")
HI = [{"role": "user", "content": "Name three colours."}]
COLOUR = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}
PICK = {
    "type": "function",
    "function": {"name": "pick", "parameters": {**COLOUR, "additionalProperties": False}},
}
litellm.suppress_debug_info = True
litellm.telemetry = False
CALL: dict[str, Any] = {"api_base": f"{URL}/v1", "api_key": "none", "num_retries": 0, "timeout": 120}


def chat(**fields: Any) -> Any:
    """A short deterministic answer."""
    given = {"model": f"openai/{MODEL}", "messages": HI, "max_tokens": 10, "temperature": 0, "seed": 7, **CALL}
    return litellm.completion(**(given | fields))


def text_of(stream: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream)


def whole_equals_stream(fields: dict[str, Any]) -> None:
    assert chat(**fields).choices[0].message.content == text_of(chat(stream=True, **fields)) or STREAMS_DIFFER


def counted(limit: int) -> None:
    usage = chat(max_tokens=limit).usage
    assert usage.completion_tokens <= limit
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def schema() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "c", "schema": COLOUR, "strict": True}}
    answer = chat(response_format=form, max_tokens=60)
    assert json.loads(answer.choices[0].message.content)["colour"] in ("red", "blue")


def called(choice: Any, stream: bool) -> None:
    answer = chat(tools=[PICK], tool_choice=choice, max_tokens=80, stream=stream)
    if stream:
        answer = litellm.stream_chunk_builder(list(answer), messages=HI)
    call = answer.choices[0].message.tool_calls[0].function
    assert call.name == "pick"
    assert json.loads(call.arguments)["colour"] in ("red", "blue")


async def _ask(stream: bool) -> str:
    fields = {"model": f"openai/{MODEL}", "messages": HI, "max_tokens": 8, "temperature": 0, **CALL}
    answer: Any = await litellm.acompletion(stream=stream, **fields)
    if not stream:
        return str(answer.choices[0].message.content)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in answer])


def vectors(given: Any, count: int) -> None:
    made = litellm.embedding(model=f"openai/{MODEL}", input=given, **CALL)
    assert len(made.data) == count
    assert all(math.isclose(sum(x * x for x in one["embedding"]), 1.0, abs_tol=1e-3) for one in made.data)


def continued(fields: dict[str, Any]) -> None:
    given = {"model": f"text-completion-openai/{MODEL}", "prompt": "Once upon", "max_tokens": 8, **CALL}
    assert litellm.text_completion(**(given | fields)).choices


def responded(stream: bool) -> None:
    fields = {"model": f"openai/{MODEL}", "input": "Say hello.", "max_output_tokens": 16, **CALL}
    answer: Any = litellm.responses(stream=stream, **fields)
    if stream:
        assert [event.type for event in answer][-1] in ("response.completed", "response.incomplete")
    else:
        assert answer.output


def build() -> None:
    """All calls."""
    add, each = SUITE.add, SUITE.each
    each("model", [f"openai/{MODEL}", "openai/twd", f"hosted_vllm/{MODEL}"], lambda model: chat(model=model))
    options = [{}, {"temperature": 0.7}, {"top_p": 0.5, "temperature": 1}, {"stop": ["\n"]}, {"presence_penalty": 1}]
    each("stream equals whole", options, whole_equals_stream)
    each("max_tokens", range(1, 9), counted)
    each("temperature", [0, 0.2, 0.5, 1, 1.5, 2], lambda t: chat(temperature=t).choices[0].message.content)
    each("n", [1, 2, 3], lambda n: len(chat(n=n, temperature=1).choices) == n or 1 / 0)
    each("stop", ["\n", ["a"], ["a", "b", "c", "d"]], lambda stop: chat(stop=stop))
    each("penalty", [-2, -1, 1, 2], lambda p: chat(frequency_penalty=p))
    each("logprobs", [1, 5], lambda top: chat(logprobs=True, top_logprobs=top).choices[0].logprobs.content[0].token)
    each(
        "system", ["Be kind.", "Täglich grüßt"], lambda said: chat(messages=[{"role": "system", "content": said}, *HI])
    )
    add("developer", lambda: chat(messages=[{"role": "developer", "content": "Be brief."}, *HI]))
    add("usage in the stream", lambda: list(chat(stream=True, stream_options={"include_usage": True}))[-1].usage)
    add("json_schema", schema)
    add("json_object", lambda: chat(response_format={"type": "json_object"}))
    named = {"type": "function", "function": {"name": "pick"}}
    each("forced call", [("required", False), ("required", True), (named, False), (named, True)], called)
    each("tool_choice", ["auto", "none"], lambda choice: chat(tools=[PICK], tool_choice=choice))
    each("asynchronous", [False, True], lambda stream: asyncio.run(_ask(stream)))
    each("embedding", [(["a b"], 1), (["a", "b"], 2)], vectors)
    each("completion", [{}, {"temperature": 0}, {"echo": True}, {"n": 2}], continued)
    each("response", [False, True], responded)
    add("own fields", lambda: chat(extra_body={"twd": {"speculation": "off"}}))
    add("unknown model", lambda: refused(lambda: chat(model="openai/nothing"), litellm.NotFoundError, "nothing"))
    bad = [{"temperature": 9}, {"max_tokens": 0}, {"extra_body": {"colour": 1}}]
    each("refused", bad, lambda fields: refused(lambda: chat(**fields), litellm.BadRequestError))


if __name__ == "__main__":
    build()
    raise SystemExit(SUITE.run())
