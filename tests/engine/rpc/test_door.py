"""Graphs at the door of an RPC worker, told by a client of our own, who may lie."""

import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.engine.rpc.test_pool import worker_process

ALLOC_BUFFER, BUFFER_GET_BASE, SET_TENSOR, GET_TENSOR, GRAPH_COMPUTE, HELLO = 0, 3, 6, 8, 10, 14
NONE, ADD, MUL_MAT, GET_ROWS, UNARY, MAP_CUSTOM1 = 0, 2, 29, 40, 91, 92
F32, I32 = 0, 26
COMPUTE = 16
ENDED_S = 30.0


@dataclass(frozen=True)
class Tensor:
    """A tensor as the protocol tells it."""

    ident: int
    buffer: int
    data: int
    ne: tuple[int, int, int, int]
    type: int = F32
    op: int = NONE
    src: tuple[int, ...] = ()
    params: tuple[int, ...] = ()

    @property
    def packed(self) -> bytes:
        strides = [4]
        for size in self.ne[:3]:
            strides.append(strides[-1] * size)
        head = struct.pack("<QIQ4I4II", self.ident, self.type, self.buffer, *self.ne, *strides, self.op)
        params = struct.pack("<16i", *self.params, *[0] * (16 - len(self.params)))
        sources = struct.pack("<i10Q", COMPUTE if self.op else 0, *self.src, *[0] * (10 - len(self.src)))
        return head + params + sources + struct.pack("<3Q64si", 0, 0, self.data, b"", 1)


class Client:
    """A client that says what it likes."""

    def __init__(self, port: int) -> None:
        self.link = socket.create_connection(("127.0.0.1", port), timeout=ENDED_S)
        self.ask(HELLO, bytes(24))

    def tell(self, command: int, body: bytes) -> None:
        self.link.sendall(struct.pack("<BQ", command, len(body)) + body)

    def ask(self, command: int, body: bytes) -> bytes:
        self.tell(command, body)
        return self._read(struct.unpack("<Q", self._read(8))[0])

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.link.recv(size - len(data))
            if not part:
                raise ConnectionError("the worker has closed the connection")
            data += part
        return data

    def memory(self, ident: int, *ne: int, type_: int = F32) -> Tensor:
        """A tensor in memory of its own."""
        one, two, three, four = (*ne, 1, 1, 1, 1)[:4]
        count = one * two * three * four
        buffer, _ = struct.unpack("<QQ", self.ask(ALLOC_BUFFER, struct.pack("<IQ", 0, 4 * count)))
        (base,) = struct.unpack("<Q", self.ask(BUFFER_GET_BASE, struct.pack("<Q", buffer)))
        return Tensor(ident, buffer, base, (one, two, three, four), type_)

    def write(self, to: Tensor, data: bytes) -> None:
        self.tell(SET_TENSOR, to.packed + struct.pack("<BQ", 0, 0) + data)

    def read(self, of: Tensor, size: int) -> bytes:
        return self.ask(GET_TENSOR, of.packed + struct.pack("<QQ", 0, size))

    def compute(self, node: Tensor, *others: Tensor) -> None:
        tensors = b"".join(one.packed for one in (node, *others))
        self.tell(GRAPH_COMPUTE, struct.pack("<IIQI", 0, 1, node.ident, 1 + len(others)) + tensors)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[tuple[Client, subprocess.Popen[bytes], Path]]:
    log = tmp_path / "worker.log"
    with worker_process(log=log) as (port, process):
        client = Client(port)
        yield client, process, log
        client.link.close()


def test_what_a_model_asks_is_computed(worker: tuple[Client, subprocess.Popen[bytes], Path]) -> None:
    client, _, _ = worker
    a, b, total = (client.memory(ident, 4) for ident in (1, 2, 3))
    client.write(a, struct.pack("<4f", 1, 2, 3, 4))
    client.write(b, struct.pack("<4f", 10, 20, 30, 40))
    client.compute(replace(total, op=ADD, src=(1, 2)), a, b)
    assert struct.unpack("<4f", client.read(total, 16)) == (11, 22, 33, 44)


def test_an_empty_result_lies_over_nothing(worker: tuple[Client, subprocess.Popen[bytes], Path]) -> None:
    """llama.cpp puts it anywhere, as in models with recurrent states of which none is to be moved."""
    client, _, _ = worker
    a, numbers = client.memory(1, 8, 8), client.memory(2, 4, type_=I32)
    client.write(a, bytes(256))
    none = Tensor(3, a.buffer, a.data + 32, (8, 0, 1, 1), op=GET_ROWS, src=(1, 4))
    client.compute(none, a, replace(numbers, ident=4, ne=(0, 1, 1, 1)))
    assert client.read(a, 256) == bytes(256)


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        ("a pointer to a function", "an operation that no language model uses"),
        ("a result that is too small", "a result of another shape"),
        ("a result that is too large", "a result of another shape"),
        ("an input that is missing", "an input that is missing"),
        ("an unknown function", "an unknown function"),
        ("numbers under the result", "a result over a part of an input"),
    ],
)
def test_a_lie_is_refused_before_anything_is_computed(
    worker: tuple[Client, subprocess.Popen[bytes], Path], lie: str, why: str
) -> None:
    client, process, log = worker
    a, b, out = client.memory(1, 8, 8), client.memory(2, 8, 4), client.memory(3, 8, 4)
    node, others = _lying(lie, a, b, out)
    client.compute(node, *others)
    process.wait(ENDED_S)
    assert why in log.read_text(), log.read_text()


def _lying(lie: str, a: Tensor, b: Tensor, out: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    match lie:
        case "a pointer to a function":
            return replace(out, op=MAP_CUSTOM1, src=(2,), params=(0x41414141, 0x41414141, 1)), (b,)
        case "a result that is too small":
            return replace(out, op=MUL_MAT, src=(1, 2), ne=(1, 1, 1, 1)), (a, b)
        case "a result that is too large":
            return replace(out, op=UNARY, src=(2,)), (replace(b, ne=(2, 2, 1, 1)),)
        case "an input that is missing":
            return replace(out, op=ADD, src=(2,)), (b,)
        case "an unknown function":
            return replace(out, op=UNARY, src=(2,), params=(4711,)), (b,)
    numbers = replace(out, ident=4, type=I32, ne=(4, 1, 1, 1))
    return replace(out, op=GET_ROWS, src=(1, 4)), (a, numbers)
