"""Where a setting was written, and what is wrong with it, in words that lead to the mend."""

from collections.abc import Iterable, Sequence

import msgspec

from twd.wire.failures import FailureCode, TwdError


class SettingPlace(msgspec.Struct, frozen=True):
    """A spot in a file, or an environment variable (then without a line)."""

    source: str
    line: int = 0
    column: int = 0
    folder: str = ""
    """Relative paths written here start in this folder."""

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One mistake: where it stands, what was found and what would be right."""

    place: SettingPlace
    key: str = ""
    found: str
    expected: str = ""
    nearest: str = ""

    def __str__(self) -> str:
        text = ": ".join(part for part in (str(self.place), self.key, self.found) if part)
        if self.expected:
            text += f"; expected {self.expected}"
        if self.nearest:
            text += f"; did you mean {self.nearest}?"
        return text


class ConfigError(TwdError):
    """The configuration cannot be used; `problems` lists everything that is wrong with it."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(FailureCode.BAD_REQUEST, "\n".join(map(str, problems)), problems[0].key)

    @classmethod
    def at(cls, place: SettingPlace, found: str, expected: str = "") -> "ConfigError":
        """An error with a single problem."""
        return cls([Problem(place=place, found=found, expected=expected)])


def nearest(word: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """The known word that looks most like this one, or nothing."""
    import difflib  # seldom needed, and slow to import

    by_lower = {candidate.lower(): candidate for candidate in known}
    matches = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=likeness)
    return by_lower[matches[0]] if matches else ""
