"""The chat page and the dashboard: a fixed set of files, read once, with a content policy that allows nothing else."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

FOLDER = Path(__file__).parents[1] / "static"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class StaticFile:
    """One file as it is sent."""

    body: bytes
    kind: str
    etag: str


class Pages:
    """Sends the pages. Only files that were found at the start exist, so a path cannot lead anywhere else."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._files = {path.name: _load(path) for path in sorted(folder.iterdir()) if path.suffix in TYPES}

    def routes(self) -> list[web.RouteDef]:
        """The routes of these handlers."""
        return [
            web.get("/", self.chat),
            web.get("/dashboard", self.dashboard),
            web.get("/static/{name}", self.file),
        ]

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """GET /: the chat page."""
        return self._send(request, "chat.html")

    async def dashboard(self, request: web.Request) -> web.StreamResponse:
        """GET /dashboard."""
        return self._send(request, "dashboard.html")

    async def file(self, request: web.Request) -> web.StreamResponse:
        """GET /static/{name}: a file of the pages."""
        return self._send(request, request.match_info["name"])

    def _send(self, request: web.Request, name: str) -> web.StreamResponse:
        file = self._files.get(name)
        if file is None:
            raise web.HTTPNotFound
        headers = {"ETag": file.etag, "Cache-Control": "no-cache", "Content-Security-Policy": POLICY}
        if request.headers.get("If-None-Match") == file.etag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=file.body, headers={**headers, "Content-Type": file.kind})


def _load(path: Path) -> StaticFile:
    body = path.read_bytes()
    return StaticFile(body, TYPES[path.suffix], f'"{hashlib.sha256(body).hexdigest()[:16]}"')
