"""Logged-in browsers: random cookies for key names. Kept in memory; after a restart browsers must log in again."""

from dataclasses import dataclass, field

LIFETIME_S = 7 * 86_400.0
MOST = 10_000


@dataclass
class BrowserSessions:
    """Cookies and the names of their keys."""

    _open: dict[str, tuple[str, float]] = field(default_factory=dict)

    def begin(self, cookie: str, key_name: str, now: float) -> None:
        """Store a new cookie; the oldest one is removed beyond the limit."""
        if len(self._open) >= MOST:
            self._open.pop(next(iter(self._open)))
        self._open[cookie] = (key_name, now + LIFETIME_S)

    def key_name(self, cookie: str, now: float) -> str:
        """The key name of a cookie; empty if it is unknown or expired."""
        name, until = self._open.get(cookie, ("", 0.0))
        if name and now >= until:
            self.end(cookie)
            return ""
        return name

    def end(self, cookie: str) -> None:
        """Delete a cookie."""
        self._open.pop(cookie, None)
