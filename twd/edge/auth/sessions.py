"""Logged-in browsers: a random cookie for a key's name. Kept in memory; a restart asks for the key again."""

from dataclasses import dataclass, field

LIFETIME_S = 7 * 86_400.0
MOST = 10_000


@dataclass
class BrowserSessions:
    """Cookies and the names of the keys behind them."""

    _open: dict[str, tuple[str, float]] = field(default_factory=dict)

    def begin(self, cookie: str, key_name: str, now: float) -> None:
        """Remember a fresh cookie; the oldest gives way when there are too many."""
        if len(self._open) >= MOST:
            self._open.pop(next(iter(self._open)))
        self._open[cookie] = (key_name, now + LIFETIME_S)

    def key_name(self, cookie: str, now: float) -> str:
        """The key that a cookie stands for; empty when it is unknown or old."""
        name, until = self._open.get(cookie, ("", 0.0))
        if name and now >= until:
            self.end(cookie)
            return ""
        return name

    def end(self, cookie: str) -> None:
        """Forget a cookie."""
        self._open.pop(cookie, None)
