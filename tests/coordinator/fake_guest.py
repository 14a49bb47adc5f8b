"""An RPC worker that nobody's agent started: one client at a time, as llama.cpp's serves them."""

import asyncio
import struct

from twd.engine.rpc.probe import DEVICE_COUNT, DEVICE_MEMORY, OURS, hello

GIB = 1024**3


class FakeGuest:
    """It tells its version and its devices' memory; `visits` counts who came."""

    def __init__(self, *devices: tuple[int, int]) -> None:
        self.devices = devices or ((6 * GIB, 8 * GIB),)
        self.visits = 0
        self.port = 0
        self._turn = asyncio.Lock()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> "FakeGuest":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *args: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with self._turn:
            self.visits += 1
            try:
                assert await reader.readexactly(len(hello())) == hello()
                writer.write(struct.pack("<Q", 28) + bytes([OURS.major, OURS.minor, OURS.patch]) + bytes(25))
                while command := await reader.read(1):
                    writer.write(self._answer(command[0], await self._payload(reader)))
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

    async def _payload(self, reader: asyncio.StreamReader) -> bytes:
        (size,) = struct.unpack("<Q", await reader.readexactly(8))
        return await reader.readexactly(size)

    def _answer(self, command: int, payload: bytes) -> bytes:
        match command:
            case number if number == DEVICE_COUNT:
                return struct.pack("<QI", 4, len(self.devices))
            case number if number == DEVICE_MEMORY:
                return struct.pack("<QQQ", 16, *self.devices[struct.unpack("<I", payload)[0]])
        raise AssertionError(f"nobody asks a worker that is not used for {command}")
