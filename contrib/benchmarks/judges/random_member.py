"""A member with random weights: how many of its answers are approved, and after how many it rests.

python contrib/benchmarks/judges/random_member.py
"""

import argparse
import json
import os
import shutil
import signal
import time
import urllib.error
from collections import Counter
from http import HTTPStatus
from pathlib import Path

import numpy as np
from house import ALWAYS_JUDGED, CACHE, House, house, weights
from prompts import prompts

from twd.gguf_tools.header import read_header


def random_model() -> Path:
    """The demo's model with its tokenizer, and random numbers for its matrices."""
    made = CACHE / "random-F16.gguf"
    if made.exists():
        return made
    shutil.copy(weights("f16"), made)
    header, dice = read_header(made), np.random.default_rng(1)
    with made.open("r+b") as file:
        for tensor in header.tensors:
            if tensor.size_bytes == 2 * tensor.elements:
                file.seek(header.data_offset + tensor.offset)
                file.write(dice.normal(0.0, 0.02, tensor.elements).astype("<f2").tobytes())
    return made


def main() -> None:
    """Print the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=12)
    options = parser.parse_args()
    gate = ALWAYS_JUDGED | {"fleet": ["random"], "max_retries": 0}
    verdicts: Counter[str] = Counter()
    rests: list[int] = []
    judged = 0
    with house({"big": "q8_0", "random": str(random_model())}, (), gate=gate) as one:
        for number, line in enumerate(prompts()):
            if sum(verdicts.values()) >= options.answers:
                break
            how = {"seed": number, "temperature": 0.9 * (number % 2), "max_tokens": options.tokens}
            answer = one.ask("big+gate", line["messages"], stream=False, **how)
            if "member" in answer.facts:
                verdicts[answer.facts["verdict"]] += 1
                judged += 1
                continue
            rests.append(judged)
            anew(one)
            judged = 1
    print(f"verdicts: {dict(verdicts)}; at rest after {rests} answers")


def anew(one: House) -> None:
    """Another gate takes the place of this one, and knows nothing of the member."""
    record = one.home / "run" / "instance.json"
    old = json.loads(record.read_bytes())["processes"]["gate"]
    os.kill(old, signal.SIGKILL)
    while json.loads(record.read_bytes())["processes"].get("gate", old) == old:
        time.sleep(0.2)
    while not judges(one):
        time.sleep(0.2)


def judges(one: House) -> bool:
    """Whether a gate is there, and has found its member."""
    try:
        answer = one.ask("big+gate", [{"role": "user", "content": "Hi"}], stream=False, max_tokens=1)
    except urllib.error.HTTPError as error:
        if error.code != HTTPStatus.SERVICE_UNAVAILABLE:
            raise
        return False
    return "verdict" in answer.facts


if __name__ == "__main__":
    main()
