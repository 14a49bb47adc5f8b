"""What all fake servers share: a loopback port, a record of requests, streams, and faults on demand."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.backends.fakes.toy import TOY, Generated, Toy

BODY: web.RequestKey[dict[str, Any]] = web.RequestKey("body", dict)
MIDWAY_MODE = web.RequestKey("midway", str)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Faults:
    """What goes wrong, and on which paths."""

    mode: str = ""
    """500, 503, 401, hang, html, broken_json, huge, redirect, gzip, hang_up; and in streams, after `after` chunks:
    stall, die, rubbish, error, mute, flood"""
    after: int = 2
    only: str = ""
    """Only paths that hold this."""
    times: int = 1_000_000

    def strikes(self, path: str) -> bool:
        """Whether a request to this path goes wrong."""
        if not self.mode or self.only not in path or self.times <= 0:
            return False
        self.times -= 1
        return True


MIDWAY = {"stall", "die", "rubbish", "error", "mute", "flood"}


@dataclass
class Seen:
    """One request as it came."""

    path: str
    body: Any
    headers: dict[str, str]


class Server:
    """Base of the fakes. `hold_after` makes streams wait there for `release`."""

    key = ""

    def __init__(self, toy: Toy = TOY) -> None:
        self.toy = toy
        self.faults = Faults()
        self.seen: list[Seen] = []
        self.streaming = 0
        self.cut_off = 0
        """Streams that the client hung up on."""
        self.hold_after: int | None = None
        self.release = asyncio.Event()
        self.url = ""
        self.port = 0
        """Where to listen; 0: a free one."""
        self.script: list[int] | None = None
        """Tokens to write instead of the toy's own."""
        self._runner: web.AppRunner | None = None

    def routes(self) -> list[web.RouteDef]:
        """The paths that this server has."""
        raise NotImplementedError

    async def start(self) -> None:
        """Listen on a free port."""
        app = web.Application(middlewares=[self._middleware()], client_max_size=1 << 26)
        app.add_routes(self.routes())
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Go away."""
        self.release.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def paths(self) -> list[str]:
        """The paths that were asked for."""
        return [seen.path for seen in self.seen]

    def bodies(self, path: str) -> list[Any]:
        """The bodies that came to a path."""
        return [seen.body for seen in self.seen if seen.path.endswith(path)]

    # -- inside --------------------------------------------------------------------------------

    def _middleware(self) -> Any:
        @web.middleware
        async def around(request: web.Request, handler: Handler) -> web.StreamResponse:
            raw = await request.read()
            request[BODY] = json.loads(raw) if raw else {}
            self.seen.append(Seen(request.path, request[BODY], dict(request.headers)))
            if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
                return self.error(401, "Invalid API Key")
            mode = self.faults.mode
            if self.faults.strikes(request.path):
                if mode not in MIDWAY:
                    return await self._fail(request, mode)
                request[MIDWAY_MODE] = mode
            return await handler(request)

        return around

    def error(self, status: int, message: str) -> web.Response:
        """An error in this server's own shape."""
        return web.json_response({"error": {"message": message, "type": "error", "code": status}}, status=status)

    async def _fail(self, request: web.Request, mode: str) -> web.StreamResponse:
        match mode:
            case "500" | "503" | "401" | "404" | "429" | "502":
                return self.error(int(mode), f"fault {mode}, your key was {request.headers.get('Authorization')}")
            case "hang":
                await self._hang()
            case "html":
                return web.Response(text="<html>Welcome to nginx</html>", content_type="text/html")
            case "broken_json":
                return web.Response(text='{"choices": [{"text": "ab', content_type="application/json")
            case "wrong_shape":
                return web.json_response({"choices": 7, "models": 7, "data": 7, "tokens": "x", "response": 5})
            case "empty":
                return web.Response()
            case "huge":
                return await self._huge(request)
            case "redirect":
                return web.Response(status=302, headers={"Location": "http://169.254.169.254/latest"})
            case "gzip":
                bomb = gzip.compress(bytes(1 << 24))
                return web.Response(body=bomb, headers={"Content-Encoding": "gzip"}, content_type="application/json")
            case "hang_up":
                assert request.transport is not None
                request.transport.abort()
        return web.Response()

    async def _hang(self) -> None:
        self.streaming += 1
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cut_off += 1
            raise
        finally:
            self.streaming -= 1

    async def _huge(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(b'{"data": "')
        for _ in range(2000):
            await response.write(b"x" * 65536)
        return response

    async def stream(self, request: web.Request, content_type: str, frames: AsyncIterator[bytes]) -> web.StreamResponse:
        """Send frames as they are made, with the faults of this request."""
        response = web.StreamResponse(headers={"Content-Type": content_type})
        self.streaming += 1
        try:
            await response.prepare(request)
            count = 0
            async for frame in frames:
                if count == self.faults.after and MIDWAY_MODE in request:
                    await self._break(request, response)
                    return response
                if count == self.hold_after:
                    await self.release.wait()
                await response.write(frame)
                await asyncio.sleep(0)
                count += 1
        except asyncio.CancelledError:
            self.cut_off += 1
            raise
        except ConnectionError:
            self.cut_off += 1
        finally:
            self.streaming -= 1
        return response

    async def _break(self, request: web.Request, response: web.StreamResponse) -> None:
        match request[MIDWAY_MODE]:
            case "stall":
                await self.release.wait()
            case "die":
                assert request.transport is not None
                request.transport.abort()
            case "rubbish":
                await response.write(self.frame(b'{"choices": [{"te') + b"\n\n")
            case "error":
                await response.write(self.frame(b'{"error": {"message": "CUDA out of memory"}}'))
            case "flood":
                for _ in range(64):
                    await response.write(b"x" * 65536)

    def frame(self, data: bytes) -> bytes:
        """One message of a stream."""
        return b"data: " + data + b"\n\n"

    def written(self, tokens: list[int], body: dict[str, Any], limit: int | None) -> tuple[list[Generated], str, str]:
        """What this server writes for a request: tokens with texts, the finish reason, the stop string."""
        seed = body.get("seed") if body.get("temperature") else None
        room = self.toy.context - len(tokens)
        limit = room if limit is None or limit < 0 else min(limit, room)
        if self.script is not None:
            ids = self.script[:limit]
        else:
            ids = self.toy.generate(tokens, limit, seed=seed, endless=bool(body.get("ignore_eos")))
        shown, stop = self._until_stop(self.toy.show(ids), body.get("stop") or [])
        reason = "stop" if stop or len(ids) < limit else "length"
        return shown, reason, stop

    def _until_stop(self, shown: list[Generated], stops: list[str]) -> tuple[list[Generated], str]:
        text = ""
        for index, one in enumerate(shown):
            text += one.text
            hit = next((stop for stop in stops if stop in text), "")
            if hit:
                cut = text.index(hit)
                kept, length = [], 0
                for earlier in shown[: index + 1]:
                    kept.append(Generated(earlier.token, earlier.text[: max(0, cut - length)]))
                    length += len(earlier.text)
                return kept, hit
        return shown, ""


@dataclass
class Farm:
    """The servers of one test; all are stopped at its end."""

    servers: list[Server] = field(default_factory=list)

    async def add(self, server: Server) -> None:
        """Start one."""
        await server.start()
        self.servers.append(server)

    async def close(self) -> None:
        """Stop them all."""
        for server in self.servers:
            await server.stop()
