"""What the scripts that strike streams share: the questions, the asking, and the longest pause of an answer."""

import asyncio
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Final

from twd.cli.chat.client import ChatClient
from twd.cli.chat.stream import StreamedAnswer

SILENCE_S: Final = 120.0
SUBJECTS: Final = ("the sea", "a fox", "an old clock", "rain in the hills", "a long bridge", "bread", "the night train")


def question(number: int, tokens: int) -> dict[str, Any]:
    """A request; every second one is greedy."""
    return {
        "model": "default",
        "messages": [{"role": "user", "content": f"Story {number}: tell me about {SUBJECTS[number % len(SUBJECTS)]}."}],
        "max_tokens": tokens,
        "temperature": 0.0 if number % 2 else 0.9,
        "seed": number,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def ask(client: ChatClient, body: dict[str, Any], piece: Callable[[str], None]) -> StreamedAnswer:
    """One whole answer, watched."""
    async with asyncio.timeout(SILENCE_S):
        return await client.ask(body, piece)


def longest_gap(times: Sequence[float]) -> float:
    """The longest wait between two pieces."""
    return max((after - before for before, after in pairwise(times)), default=0.0)
