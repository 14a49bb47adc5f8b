"""GET /openapi.json: describes the API, from the same types that validate requests."""

import re
from dataclasses import dataclass
from typing import Any

import msgspec

import twd
from twd.edge.anthropic.types import (
    AnthropicEnvelope,
    CountTokensRequest,
    MessageOut,
    MessagesRequest,
    StreamEvent,
    TokenCount,
)
from twd.edge.auth.access_policy import COOKIE
from twd.edge.auth.middleware import Login, LoginState
from twd.edge.monitoring.status_types import HealthReply, JobHistory, JobTrace, SystemStatus
from twd.edge.openai.answers import (
    ChatChunk,
    ChatCompletion,
    ErrorEnvelope,
    ModelCard,
    ModelList,
    TextCompletion,
)
from twd.edge.openai.embeddings import EmbeddingList, EmbeddingsRequest
from twd.edge.openai.types import ChatRequest, CompletionRequest
from twd.edge.responses.types import ResponseEvent, ResponseOut, ResponsesRequest

Json = dict[str, Any]
REF = "#/components/schemas/{name}"


@dataclass(frozen=True, slots=True)
class Operation:
    """One path and method."""

    method: str
    path: str
    summary: str
    answer: Any = None
    body: Any = None
    chunk: Any = None
    """The type of a stream's events, if the operation can stream."""
    query: tuple[tuple[str, Json], ...] = ()
    open: bool = False
    """Whether no key is needed."""
    text: bool = False
    """Whether the answer is plain text."""


LIMIT = {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50}
OPERATIONS: tuple[Operation, ...] = (
    Operation("post", "/v1/chat/completions", "Answer a conversation", ChatCompletion, ChatRequest, chunk=ChatChunk),
    Operation("post", "/v1/completions", "Continue a text", TextCompletion, CompletionRequest, chunk=TextCompletion),
    Operation("post", "/v1/responses", "Answer input items", ResponseOut, ResponsesRequest, chunk=ResponseEvent),
    Operation("post", "/v1/messages", "Answer in Anthropic's shape", MessageOut, MessagesRequest, chunk=StreamEvent),
    Operation("post", "/v1/messages/count_tokens", "Count a prompt's tokens", TokenCount, CountTokensRequest),
    Operation("post", "/v1/embeddings", "Turn texts into vectors", EmbeddingList, EmbeddingsRequest),
    Operation("get", "/v1/models", "List models", ModelList),
    Operation("get", "/v1/models/{model}", "Show one model", ModelCard),
    Operation("get", "/v1/twd/status", "Services, models and figures", SystemStatus),
    Operation(
        "get",
        "/v1/twd/events",
        "Live events as server-sent events",
        chunk=dict[str, Any],
        query=(("topics", {"type": "string"}), ("job", {"type": "string"})),
    ),
    Operation("get", "/v1/twd/history", "Jobs that ended, newest first", JobHistory, query=(("limit", LIMIT),)),
    Operation("get", "/v1/twd/jobs/{job}", "The story of one job", JobTrace),
    Operation("get", "/metrics", "Counters and gauges for Prometheus", text=True),
    Operation("get", "/login", "Whether a key is needed", LoginState, open=True),
    Operation("post", "/login", "Exchange a key for a cookie", LoginState, Login, open=True),
    Operation("post", "/logout", "Forget the cookie", LoginState, open=True),
    Operation("get", "/healthz", "Whether this process works", HealthReply, open=True),
    Operation("get", "/readyz", "Whether a request would be answered now", HealthReply, open=True),
    Operation("get", "/openapi.json", "This document", dict[str, Any]),
)


def document() -> Json:
    """The whole OpenAPI document."""
    types = [t for op in OPERATIONS for t in (op.answer, op.body, op.chunk) if t is not None] + [
        ErrorEnvelope,
        AnthropicEnvelope,
    ]
    schemas, components = msgspec.json.schema_components(types, ref_template=REF)
    schema_of = {repr(kind): schema for kind, schema in zip(types, schemas, strict=True)}
    paths: dict[str, Json] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _describe(operation, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {"title": "twd", "version": twd.__version__, "description": "OpenAI's API over unlike machines."},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": COOKIE},
            },
        },
        "security": [{"bearer": []}, {"cookie": []}, {}],
    }


def _describe(operation: Operation, schema_of: dict[str, Json]) -> Json:
    envelope = AnthropicEnvelope if operation.path.startswith("/v1/messages") else ErrorEnvelope
    failure = {"description": "A failure, in words and as a code", "content": _json(schema_of[repr(envelope)])}
    described: Json = {
        "summary": operation.summary,
        "operationId": _operation_id(operation),
        "parameters": _parameters(operation),
        "responses": {"200": {"description": "Done", "content": _content(operation, schema_of)}, "default": failure},
    }
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": _json(schema_of[repr(operation.body)])}
    if operation.open:
        described["security"] = [{}]
    return described


def _content(operation: Operation, schema_of: dict[str, Json]) -> Json:
    content: Json = {}
    if operation.answer is not None:
        content |= _json(schema_of[repr(operation.answer)])
    if operation.text:
        content["text/plain"] = {"schema": {"type": "string"}}
    if operation.chunk is not None:
        content["text/event-stream"] = {"schema": _event(schema_of[repr(operation.chunk)])}
    return content


def _event(chunk: Json) -> Json:
    """One event of a stream in the form that tools for OpenAPI before 3.2 expect: its fields, not the stream's text."""
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": chunk}
    return {
        "type": "object",
        "properties": {"event": {"type": "string"}, "data": {"anyOf": [{"const": "[DONE]"}, data]}},
        "required": ["data"],
    }


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _operation_id(operation: Operation) -> str:
    words = re.findall(r"[a-z]+", operation.path.replace("/v1/", "/"))
    return "_".join([operation.method, *words])


def _parameters(operation: Operation) -> list[Json]:
    names = re.findall(r"\{(\w+)\}", operation.path)
    in_path = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    return in_path + [{"name": name, "in": "query", "schema": schema} for name, schema in operation.query]
