"""Records requests for a calibration, in a private file of limited size."""

import os
from pathlib import Path
from typing import Final

import msgspec

from twd.wire.job import JobSubmitted

RECORD_MAX: Final = 16 * 1024 * 1024
FILE: Final = "record.jsonl"


def record(home: Path, job: JobSubmitted) -> bool:
    """Write one conversation to the file; False if the file is full or the job has no messages."""
    messages = job.prompt.messages
    if not messages:
        return False
    path = home / "gate" / FILE
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    told = [{"role": one.role, "content": one.content} for one in messages]
    line = msgspec.json.encode({"messages": told, "max_tokens": job.max_tokens or 256}) + b"\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        if os.fstat(descriptor).st_size + len(line) > RECORD_MAX:
            return False
        os.write(descriptor, line)
    finally:
        os.close(descriptor)
    return True
