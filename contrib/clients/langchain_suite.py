"""langchain-openai against a running demo."""

import asyncio
import json
import math
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from openai import BadRequestError, LengthFinishReasonError, NotFoundError
from pydantic import BaseModel, SecretStr
from suite import MODEL, STREAMS_DIFFER, Suite, base_url, refused

URL = base_url()
SUITE = Suite("langchain-openai")


class Colour(BaseModel):
    """A colour."""

    name: str
    warm: bool


def weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}"


def model(**fields: Any) -> Any:
    """A chat model that answers shortly."""
    given = {"model": MODEL, "temperature": 0, "max_tokens": 12, "seed": 7, "max_retries": 0, "timeout": 120}
    return ChatOpenAI(base_url=f"{URL}/v1", api_key=SecretStr("none"), **(given | fields))


def asked(said: str = "Name three colours.", **fields: Any) -> Any:
    return model(**fields).invoke(said)


def whole_equals_stream(said: str) -> None:
    text = "".join(str(piece.content) for piece in model().stream(said))
    assert asked(said).content == text or STREAMS_DIFFER


def counted(limit: int) -> None:
    usage = asked(max_tokens=limit).usage_metadata
    assert usage["output_tokens"] <= limit
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def structured(method: str) -> None:
    asking = model(max_tokens=300).with_structured_output(Colour, method=method, include_raw=True)
    try:
        answer = asking.invoke("Red is warm.")
    except LengthFinishReasonError:
        return  # a small model may well write on inside a string
    if method == "json_mode":  # it promises an object, not which one
        assert isinstance(json.loads(answer["raw"].content), dict), answer
        return
    assert isinstance(answer["parsed"], Colour), answer


def called(choice: Any) -> None:
    answer = model(max_tokens=200).bind_tools([weather], tool_choice=choice).invoke("How is the weather in Oslo?")
    assert answer.tool_calls[0]["name"] == "weather"
    assert isinstance(answer.tool_calls[0]["args"]["city"], str)


def tool_answers() -> None:
    call = {"name": "weather", "args": {"city": "Oslo"}, "id": "call_1"}
    said = [HumanMessage("The weather?"), AIMessage("", tool_calls=[call]), ToolMessage("rain", tool_call_id="call_1")]
    assert model().bind_tools([weather]).invoke(said).response_metadata["finish_reason"]


def chained(topic: str) -> None:
    chain = (
        ChatPromptTemplate.from_messages([("system", "Be kind."), ("user", "{topic}?")]) | model() | StrOutputParser()
    )
    assert isinstance(chain.invoke({"topic": topic}), str)


async def _stream() -> int:
    return len([piece async for piece in model().astream("Name three colours.")])


async def _many() -> int:
    return len(await asyncio.gather(*(model().ainvoke(f"{number}?") for number in range(4))))


def vectors(texts: list[str]) -> None:
    embeddings = OpenAIEmbeddings(
        model=MODEL,
        base_url=f"{URL}/v1",
        api_key=SecretStr("none"),
        check_embedding_ctx_length=False,
        max_retries=0,
    )
    made = embeddings.embed_documents(texts)
    assert len(made) == len(texts)
    assert all(math.isclose(sum(x * x for x in one), 1.0, abs_tol=1e-3) for one in made)


def continued(said: str) -> None:
    llm = OpenAI(model=MODEL, base_url=f"{URL}/v1", api_key=SecretStr("none"), max_tokens=8, max_retries=0)
    assert isinstance(llm.invoke(said), str)


def by_responses(said: str) -> None:
    answer = model(use_responses_api=True, seed=None, max_tokens=16).invoke(said)
    assert answer.usage_metadata["output_tokens"] > 0


def build() -> None:
    """All calls."""
    add, each = SUITE.add, SUITE.each
    talks = ["Hi", "Name a fish.", "Grüße aus Köln", "1 + 1 =", "Say ✓ twice."]
    each("invoke", talks, lambda said: asked(said).content)
    each("stream equals whole", talks, whole_equals_stream)
    each("max_tokens", range(1, 7), counted)
    each("temperature", [0, 0.3, 1, 1.7, 2], lambda t: asked(temperature=t))
    each("top_p", [0.1, 0.9], lambda p: asked(temperature=1, top_p=p))
    each("penalty", [-1, 1], lambda p: asked(frequency_penalty=p, presence_penalty=p))
    each("stop", [["\n"], ["a", "e"]], lambda stop: model().invoke("Count.", stop=stop))
    each("n", [1, 2, 3], lambda n: len(model(n=n, temperature=1).generate([[HumanMessage("Hi")]]).generations[0]) == n)
    add("logprobs", lambda: asked(logprobs=True, top_logprobs=2).response_metadata["logprobs"]["content"][0])
    each("system", ["Be kind.", "Be brief."], lambda said: model().invoke([SystemMessage(said), HumanMessage("Hi")]))
    each("structured", ["json_schema", "function_calling", "json_mode"], structured)
    each("forced call", ["any", "weather", "required"], called)
    each("tool_choice", ["auto", "none"], lambda choice: model().bind_tools([weather], tool_choice=choice).invoke("Hi"))
    add("tool answers", tool_answers)
    each("chain", ["fish", "rain", "tea"], chained)
    add("batch", lambda: model().batch(["a", "b", "c"]))
    add("asynchronous stream", lambda: asyncio.run(_stream()))
    add("many at once", lambda: asyncio.run(_many()))
    add("usage in the stream", lambda: list(model(stream_usage=True).stream("Hi"))[-1])
    each("embeddings", [["a"], ["a", "b c"], ["x"] * 5], vectors)
    each("completion", ["Once upon", "The sea"], continued)
    each("responses", ["Hi", "Say hello."], by_responses)
    add("own fields", lambda: asked(extra_body={"twd": {"mode": "direct"}}))
    add("unknown model", lambda: refused(lambda: asked(model="nothing"), NotFoundError, "nothing"))
    each(
        "refused", [{"temperature": 9}, {"top_p": 5}], lambda fields: refused(lambda: asked(**fields), BadRequestError)
    )


if __name__ == "__main__":
    build()
    raise SystemExit(SUITE.run())
