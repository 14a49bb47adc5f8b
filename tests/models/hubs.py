"""A hub on loopback that speaks the protocols of Hugging Face and of Ollama's registry, with a file server of its own.

As on the real one, the hub only leads to files: by addresses of another server that are signed, expire, and refuse any
Authorization header. Nothing here is shortened for our client; `huggingface_hub` downloads from it, too.
"""

import asyncio
import hashlib
import hmac
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cache

from aiohttp import web

PAGE = 2
"""Entries on one page of a listing."""


@dataclass
class Repository:
    """Files of one repository at one commit."""

    files: dict[str, bytes]
    commit: str = "0123456789abcdef0123456789abcdef01234567"
    gated: bool = False
    private: bool = False
    plain: tuple[str, ...] = ()
    """Files outside of the large file storage: no SHA-256 is told of them."""


@dataclass
class Hub:
    """What the hub has, who asked it what, and how it misbehaves."""

    repositories: dict[str, Repository] = field(default_factory=dict, repr=False)
    registry: dict[str, bytes] = field(default_factory=dict, repr=False)
    """Models of the registry by `name:tag`."""
    token: str = "hf_right"
    url: str = ""
    files_url: str = ""
    lifetime: int = 1_000_000
    """So many requests an address of a file is good for; then it has expired."""
    lifetime_s: float = 3600.0
    busy: int = 0
    """So many requests to the API are answered with 429."""
    retry_after: str = "1"
    answer_instead: Callable[[web.Request], Awaitable[web.StreamResponse] | None] = lambda request: None
    bytes_s: float = 0.0
    """The speed of one connection; 0: no limit."""
    stall_after: int = 0
    """After so many bytes the file server sends nothing, until this is 0 again."""
    spoil: bool = False
    """Whether the file server flips a bit of each answer."""
    sent_bytes: int = 0
    asked: list[str] = field(default_factory=list)
    tokens_at_files: list[str] = field(default_factory=list)
    signed: int = 0
    _uses: dict[str, int] = field(default_factory=dict)

    def blobs(self) -> dict[str, bytes]:
        """All files by their SHA-256."""
        data = [one for repository in self.repositories.values() for one in repository.files.values()]
        return {sha256(one): one for one in (*data, *self.registry.values())}

    # -- the API of Hugging Face ---------------------------------------------------------------------

    def repository(self, request: web.Request, *, for_files: bool = False) -> Repository:
        """The repository that a request names, if whoever asks may see it."""
        name = f"{request.match_info['org']}/{request.match_info['repo']}"
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token != self.token:
            raise refusal(401, "", "Invalid credentials in Authorization header")
        found = self.repositories.get(name)
        if found is None or (found.private and not token):
            raise refusal(404 if token else 401, "RepoNotFound", "Repository not found")
        if found.gated and for_files and not token:
            raise refusal(401, "GatedRepo", f"Access to model {name} is restricted. You must have access to it")
        revision = request.match_info.get("revision", "main")
        if revision not in ("main", found.commit):
            raise refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    async def models(self, request: web.Request) -> web.StreamResponse:
        """The search."""
        word = request.query.get("search", "").lower()
        near = [name for name in self.repositories if word[:4] in name.lower()]
        return web.json_response([{"id": name, "modelId": name} for name in near[: int(request.query.get("limit", 9))]])

    async def revision(self, request: web.Request) -> web.StreamResponse:
        """What the hub tells of a repository."""
        found = self.repository(request)
        name = f"{request.match_info['org']}/{request.match_info['repo']}"
        told = {
            "_id": "1", "id": name, "modelId": name, "sha": found.commit, "private": found.private, "tags": ["gguf"],
            "gated": "manual" if found.gated else False, "disabled": False, "downloads": 1, "likes": 1,
            "siblings": [{"rfilename": path} for path in found.files],
        }  # fmt: skip
        return web.json_response(told)

    async def tree(self, request: web.Request) -> web.StreamResponse:
        """The listing, in pages: the next one stands in a Link header."""
        found = self.repository(request)
        folders = sorted({path.rpartition("/")[0] for path in found.files} - {""})
        told = [{"type": "directory", "oid": "f" * 40, "size": 0, "path": path} for path in folders]
        told += [self._entry(found, path) for path in sorted(found.files)]
        begin = int(request.query.get("cursor", "0"))
        response = web.json_response(told[begin : begin + PAGE])
        if begin + PAGE < len(told):
            following = request.url.update_query(cursor=str(begin + PAGE))
            response.headers["Link"] = f'<{following}>; rel="next"'
        return response

    def _entry(self, found: Repository, path: str) -> dict[str, object]:
        data = found.files[path]
        entry: dict[str, object] = {"type": "file", "oid": git_oid(data), "size": len(data), "path": path}
        if path not in found.plain:
            entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 135}
        return entry

    async def resolve(self, request: web.Request) -> web.StreamResponse:
        """Leads to the bytes of a file."""
        found = self.repository(request, for_files=True)
        path = request.match_info["path"]
        if path not in found.files:
            raise refusal(404, "EntryNotFound", f"Entry not found: {path}")
        data = found.files[path]
        headers = {"X-Repo-Commit": found.commit, "Accept-Ranges": "bytes"}
        if path in found.plain:
            return ranged(request, data, {**headers, "ETag": f'"{git_oid(data)}"'})
        digest = sha256(data)
        headers |= {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{digest}"', "ETag": f'"{digest}"'}
        raise web.HTTPFound(self._signed(digest), headers=headers)

    def _signed(self, digest: str) -> str:
        self.signed += 1
        until = f"{time.time() + self.lifetime_s:.3f}"
        return f"{self.files_url}/repos/{digest}?Expires={until}&n={self.signed}&Signature={sign(digest, until)}"

    # -- the registry of Ollama ------------------------------------------------------------------------

    async def manifest(self, request: web.Request) -> web.StreamResponse:
        """The blobs of a model."""
        data = self.registry.get(f"{request.match_info['name']}:{request.match_info['tag']}")
        if data is None:
            raise web.HTTPNotFound(
                text='{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}',
                content_type="application/json",
            )
        kinds = {"model": data, "template": b"{{ .Prompt }}", "license": b"free"}
        layers = [
            {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": f"sha256:{sha256(one)}", "size": len(one)}
            for kind, one in kinds.items()
        ]
        kind = "application/vnd.docker.distribution.manifest.v2+json"
        config = {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "digest": "sha256:" + "1" * 64,
            "size": 5,
        }
        return web.json_response(
            {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers}, content_type=kind
        )

    async def blob(self, request: web.Request) -> web.StreamResponse:
        """Leads to the bytes of a blob."""
        digest = request.match_info["digest"]
        if digest not in self.blobs():
            raise web.HTTPNotFound
        raise web.HTTPTemporaryRedirect(self._signed(digest))

    # -- the file server -------------------------------------------------------------------------------

    async def file(self, request: web.Request) -> web.StreamResponse:
        """The bytes, for whoever has an address that is signed and has not expired."""
        if "Authorization" in request.headers:
            self.tokens_at_files.append(request.headers["Authorization"])
            raise web.HTTPBadRequest(text="<Error>Only one auth mechanism allowed</Error>", content_type="text/xml")
        digest, until = request.match_info["digest"], request.query.get("Expires", "0")
        uses = self._uses[request.path_qs] = self._uses.get(request.path_qs, 0) + 1
        right = hmac.compare_digest(request.query.get("Signature", ""), sign(digest, until))
        if not right or time.time() > float(until) or uses > self.lifetime:
            raise web.HTTPForbidden(text="<Error>Request has expired</Error>", content_type="text/xml")
        data = self.blobs()[digest]
        begin, end, _ = request.http_range.indices(len(data))
        part = bytearray(data[begin:end])
        if self.spoil and len(part) > 4:
            part[-1] ^= 1
        response = web.StreamResponse(status=206 if "Range" in request.headers else 200)
        response.content_length = len(part)
        response.headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(data)}"
        response.headers["Accept-Ranges"] = "bytes"
        response.headers["ETag"] = f'"{digest}"'
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        step = int(self.bytes_s / 20) or 1 << 18
        for at in range(0, len(part), step):
            while self.stall_after and self.sent_bytes >= self.stall_after:  # noqa: ASYNC110 - a test changes it
                await asyncio.sleep(0.02)
            await response.write(bytes(part[at : at + step]))
            self.sent_bytes += len(part[at : at + step])
            if self.bytes_s:
                await asyncio.sleep(0.05)
        return response

    # -- around everything -----------------------------------------------------------------------------

    @web.middleware
    async def _watch(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        other = self.answer_instead(request)
        if other is not None:
            return await other
        if self.busy:
            self.busy -= 1
            raise web.HTTPTooManyRequests(text="Too many requests", headers={"Retry-After": self.retry_after})
        return await handler(request)

    def hub_app(self) -> web.Application:
        """The hub itself."""
        app = web.Application(middlewares=[self._watch])
        repo = "{org}/{repo}"
        app.router.add_get("/api/models", self.models)
        app.router.add_get(f"/api/models/{repo}", self.revision)
        app.router.add_get(f"/api/models/{repo}/revision/{{revision}}", self.revision)
        app.router.add_get(f"/api/models/{repo}/tree/{{revision}}", self.tree)
        app.router.add_get(f"/{repo}/resolve/{{revision}}/{{path:.+}}", self.resolve)
        app.router.add_get("/v2/{name:.+}/manifests/{tag}", self.manifest)
        app.router.add_get("/v2/{name:.+}/blobs/sha256:{digest}", self.blob)
        return app

    def files_app(self) -> web.Application:
        """The server of files."""
        app = web.Application()
        app.router.add_get("/repos/{digest}", self.file)
        return app


def refusal(status: int, code: str, said: str) -> web.HTTPException:
    """An error as Hugging Face tells it: in headers, and as JSON."""
    kinds = {401: web.HTTPUnauthorized, 403: web.HTTPForbidden, 404: web.HTTPNotFound}
    headers = {"X-Error-Message": said} | ({"X-Error-Code": code} if code else {})
    return kinds[status](headers=headers, text=f'{{"error":"{said}"}}', content_type="application/json")


def ranged(request: web.Request, data: bytes, headers: dict[str, str]) -> web.Response:
    """Some bytes, as a Range header asks for them."""
    if "Range" not in request.headers:
        return web.Response(body=data, headers=headers)
    begin, end, _ = request.http_range.indices(len(data))
    return web.Response(
        status=206, body=data[begin:end], headers={**headers, "Content-Range": f"bytes {begin}-{end - 1}/{len(data)}"}
    )


@cache
def sha256(data: bytes) -> str:
    """The SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def git_oid(data: bytes) -> str:
    """The name that git gives a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def sign(digest: str, until: str) -> str:
    """A signature that only the hub can make."""
    return hmac.new(b"a key of the hub", f"{digest}{until}".encode(), hashlib.sha256).hexdigest()


@asynccontextmanager
async def serving_hub(hub: Hub, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """Both servers, each with a port of its own; the hub's address."""
    runners = []
    try:
        for app in (hub.files_app(), hub.hub_app()):
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            runners.append(runner)
            await web.TCPSite(runner, host, 0).start()
        hub.files_url, hub.url = (f"http://{host}:{runner.addresses[0][1]}" for runner in runners)
        yield hub.url
    finally:
        for runner in runners:
            await runner.cleanup()


@contextmanager
def hub_in_thread(hub: Hub) -> Iterator[str]:
    """The same for commands, which have an event loop of their own."""
    loop, stop = asyncio.new_event_loop(), threading.Event()
    ready = threading.Event()

    async def serve() -> None:
        async with serving_hub(hub):
            ready.set()
            await loop.run_in_executor(None, stop.wait)

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(20)
        yield hub.url
    finally:
        stop.set()
        thread.join(20)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
