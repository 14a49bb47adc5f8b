"""Decodes a request and validates it; errors name the path of the wrong field."""

import re
from functools import cache
from typing import Any, TypeVar

import msgspec

from twd.edge.http.choices import choices
from twd.wire.failures import FailureCode, TwdError
from twd.wire.reading import NONSENSE

B = TypeVar("B", bound=msgspec.Struct)

HINTS = {
    "previous_response_id": "twd keeps no responses; send the whole conversation in `input`",
    "conversation": "twd keeps no conversations; send the whole conversation in `input`",
    "prompt": "twd keeps no prompt templates; send `input` and `instructions`",
    "container": "twd runs no containers",
    "mcp_servers": "twd calls no MCP servers; offer their tools as functions",
    "audio": "twd answers in text only",
    "function_call": "use `tools` and `tool_choice`",
    "functions": "use `tools`",
    "web_search_options": "twd does not search the web",
    "repetition_penalty": "it is called `repeat_penalty` here",
    "n_predict": "it is called `max_tokens` here",
    "guided_json": "use `response_format`",
    "guided_grammar": "use `grammar`",
    "json_schema": "use `response_format`",
    "extra_body": "put its fields into the request itself",
    "background": "twd answers while the client waits; leave it out",
    "verbosity": "no model here is made terser or wordier by it; ask for that in the instructions",
    "text.verbosity": "no model here is made terser or wordier by it; ask for that in the instructions",
    "top_logprobs": "log probabilities are given by /v1/chat/completions and /v1/completions",
    "context_management": 'twd compacts no conversations; shorten `input`, or send `truncation`: "auto"',
    "moderation": "twd moderates nothing",
}
"""Fields that other servers know and twd does not: what to use instead."""

_AT = re.compile(r" - at (?:`key` in )?`\$(.*?)`$", re.DOTALL)
_UNKNOWN = re.compile(r"^Object contains unknown field `(.*?)`", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(.*?)`", re.DOTALL)


def read_request(model: type[B], body: bytes) -> B:
    """Decode and check a body; raises TwdError with the path of the wrong field."""
    try:
        return _decoder(model).decode(body)  # type: ignore[no-any-return]
    except msgspec.ValidationError as error:
        raise explain(str(error), model) from None
    except NONSENSE as error:
        text = f"the body is not JSON: {error}" if body.strip() else "the body is empty; send a JSON object"
        raise TwdError(FailureCode.BAD_REQUEST, text) from None


def read_value(model: Any, value: Any, field: str) -> Any:
    """Validate a value that was not JSON, such as a header."""
    try:
        return msgspec.convert(value, model, strict=False)
    except UnicodeEncodeError:
        raise TwdError(FailureCode.BAD_REQUEST, f"{field} is not UTF-8", field) from None
    except msgspec.ValidationError as error:
        raise TwdError(FailureCode.BAD_REQUEST, f"{field}: {error}", field) from None


def is_number(text: str) -> bool:
    """Whether a header or query parameter is a whole number in ASCII digits."""
    return text.isascii() and text.isdecimal() and len(text) < 10


@cache
def _decoder(model: type[msgspec.Struct]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(model)


def explain(message: str, model: type[msgspec.Struct], inside: str = "") -> TwdError:
    """Turn msgspec's error into a TwdError with a path such as `messages[0].role`; `inside` is the
    start of the path.
    """
    found = _AT.search(message)
    path = (inside + (found.group(1) if found else "")).lstrip(".")
    what = message[: found.start()] if found else message
    if unknown := _UNKNOWN.match(what):
        return _unknown_field(unknown.group(1), path, model)
    if missing := _MISSING.match(what):
        field = _join(path, missing.group(1))
        return TwdError(FailureCode.BAD_REQUEST, f"`{field}` is required", field)
    hint = HINTS.get(path) if what.startswith(("Expected `null`", "Invalid enum value")) else None
    if hint:
        return TwdError(FailureCode.UNSUPPORTED, f"`{path}` is not supported: {hint}", path)
    named = choices(model, found.group(1)) if found and what.startswith("Invalid") else []
    instead = f"; it is one of {', '.join(named)}" if named else ""
    return TwdError(FailureCode.BAD_REQUEST, f"{_short(what)} - at `{path or 'the body'}`{instead}", path)


def text_only(part: msgspec.Struct, path: str) -> TwdError:
    """The error for a message part that is not text, such as a picture."""
    kind = part.__struct_config__.tag
    return TwdError(FailureCode.UNSUPPORTED, f"{path}: this model reads text only, not {kind}", f"{path}.type")


def _unknown_field(name: str, path: str, model: type[msgspec.Struct]) -> TwdError:
    field = _join(path, name[:80])
    advice = HINTS.get(name)
    if advice is None and not path:
        import difflib  # rarely needed, and slow to import

        near = difflib.get_close_matches(name[:80], model.__struct_fields__, 1)
        advice = f"did you mean `{near[0]}`?" if near else None
    return TwdError(FailureCode.BAD_REQUEST, f"unknown field `{field}`" + (f": {advice}" if advice else ""), field)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _short(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else text[:limit] + "..."
