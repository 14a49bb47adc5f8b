"""One seeded answer as a stream, and blows in the middle of it."""

import os
import signal
from collections.abc import Iterator

from openai import OpenAI

OPTIONS = {
    "model": "default",
    "messages": [{"role": "user", "content": "Tell me about the sea and the moon."}],
    "max_tokens": 60,
    "temperature": 0.8,
    "seed": 5,
}


def stream(client: OpenAI) -> Iterator[str]:
    for chunk in client.chat.completions.create(**OPTIONS, stream=True):  # type: ignore[call-overload]
        if chunk.choices:
            yield chunk.choices[0].delta.content or ""


def struck(client: OpenAI, pid: int, blow: signal.Signals = signal.SIGKILL, after: int = 3) -> str:
    """The text, where a process gets a signal after so many pieces of it."""
    parts: list[str] = []
    for part in stream(client):
        if len(parts) == after:
            os.kill(pid, blow)
        parts.append(part)
    assert len(parts) > after, "the answer was whole before the blow"
    return "".join(parts)
