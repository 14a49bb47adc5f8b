"""Reads GBNF, the grammar notation of llama.cpp, and says by line and column what is wrong with it."""

from bisect import bisect_right
from collections.abc import Mapping

from twd.grammar.rules import (
    ANY_CHAR,
    EMPTY,
    Alternation,
    CharClass,
    Concatenation,
    Expr,
    OneToken,
    Ref,
    Repeat,
    Terminal,
    bad_grammar,
)
from twd.grammar.utf8_ranges import LAST_CODE_POINT, inverted
from twd.wire.failures import TwdError

_DEPTH_MAX = 64
_REPEAT_MAX = 100_000
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-", "^": "^", "/": "/"}
_HEX_ESCAPES = {"x": 2, "u": 4, "U": 8}
_REPEATS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


def parse(text: str, special_tokens: Mapping[str, int], vocabulary: int) -> dict[str, Expr]:
    """The rules by name; `special_tokens` resolves `<name>`, and `<[id]>` must be below `vocabulary`."""
    return _Parser(text, special_tokens, vocabulary).rules()


class _Parser:
    def __init__(self, text: str, special_tokens: Mapping[str, int], vocabulary: int) -> None:
        self._text = text
        self._line_starts = [0, *(index + 1 for index, character in enumerate(text) if character == "\n")]
        self._at = 0
        self._depth = 0
        self._special_tokens = special_tokens
        self._vocabulary = vocabulary

    def rules(self) -> dict[str, Expr]:
        """Everything up to the end of the text; of two rules of one name the later one counts."""
        found: dict[str, Expr] = {}
        self._space(newlines=True)
        while self._at < len(self._text):
            name = self._name()
            self._space(newlines=False)
            self._expect("::=", "'::=' after the rule's name")
            self._space(newlines=True)
            found[name] = self._choice()
            if self._at < len(self._text) and self._peek() not in "\r\n":
                raise self._error(f"'{self._peek()}' cannot stand here; a rule ends with its line")
            self._space(newlines=True)
        if not found:
            raise bad_grammar("The grammar is empty; it needs at least a rule 'root ::= ...'.")
        return found

    def _choice(self) -> Expr:
        options = [self._chain()]
        while self._peek() == "|":
            self._at += 1
            self._space(newlines=True)
            options.append(self._chain())
        return options[0] if len(options) == 1 else Alternation(tuple(options))

    def _chain(self) -> Expr:
        items: list[Expr] = []
        while (item := self._item()) is not None:
            self._space(newlines=self._depth > 0)
            while (bounds := self._bounds()) is not None:
                item = Repeat(item, *bounds)
                self._space(newlines=self._depth > 0)
            items.append(item)
        return items[0] if len(items) == 1 else Concatenation(tuple(items)) if items else EMPTY

    def _item(self) -> Expr | None:
        match self._peek():
            case '"':
                return self._literal()
            case "[":
                return self._char_class()
            case "(":
                return self._group()
            case "<" | "!":
                return self._token()
            case ".":
                self._at += 1
                return ANY_CHAR
            case character if character in _NAME and character:
                place = self._place()
                return Ref(self._name(), place)
        return None

    def _literal(self) -> Expr:
        self._at += 1
        characters = []
        while self._peek() != '"':
            characters.append(chr(self._character()))
        self._at += 1
        try:
            return Terminal("".join(characters).encode("utf-8"))
        except UnicodeEncodeError:
            raise self._error("a surrogate is no character of its own") from None

    def _char_class(self) -> Expr:
        self._at += 1
        negated = self._peek() == "^"
        self._at += negated
        ranges = []
        while self._peek() != "]":
            low = high = self._character()
            if self._peek() == "-" and self._peek(1) != "]":
                self._at += 1
                high = self._character()
            if low > high:
                raise self._error("this range ends before it begins")
            ranges.append((max(low, 1), high))
        self._at += 1
        return CharClass(inverted(ranges) if negated else tuple(sorted(ranges)))

    def _group(self) -> Expr:
        start = self._place()
        self._at += 1
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            raise self._error(f"groups are nested more than {_DEPTH_MAX} deep")
        self._space(newlines=True)
        inner = self._choice()
        if self._peek() != ")":
            raise self._error(f"the group that begins at {start} is not closed by ')'")
        self._at += 1
        self._depth -= 1
        return inner

    def _token(self) -> Expr:
        negated = self._peek() == "!"
        self._at += negated
        if self._peek() != "<":
            raise self._error("'<' must follow '!'")
        end = self._text.find(">", self._at)
        name = self._text[self._at : end + 1]
        if end < 0:
            raise self._error("this token name is not closed by '>'")
        if name[1] == "[":
            token = self._token_id(name[2:-2] if name.endswith("]>") else "")
        elif name in self._special_tokens:
            token = self._special_tokens[name]
        else:
            raise self._error(f"this model has no special token {name}")
        self._at = end + 1
        return OneToken(frozenset([token]), negated)

    def _token_id(self, digits: str) -> int:
        if not digits.isascii() or not digits.isdigit() or len(digits) > 9 or int(digits) >= self._vocabulary:
            raise self._error(f"a token id is written <[0]> to <[{self._vocabulary - 1}]>")
        return int(digits)

    def _bounds(self) -> tuple[int, int | None] | None:
        sign = self._peek()
        if sign in _REPEATS:
            self._at += 1
            return _REPEATS[sign]
        if sign != "{":
            return None
        self._at += 1
        least = self._number()
        most: int | None = least
        if self._peek() == ",":
            self._at += 1
            self._space(newlines=False)
            most = None if self._peek() == "}" else self._number()
        self._expect("}", "'}' at the end of a repetition")
        if most is not None and most < least:
            raise self._error("this repetition ends before it begins")
        return least, most

    def _number(self) -> int:
        self._space(newlines=False)
        start = self._at
        while self._peek().isascii() and self._peek().isdigit():
            self._at += 1
        digits = self._text[start : self._at]
        if not digits:
            raise self._error("a number must stand here")
        if len(digits) > 6 or int(digits) > _REPEAT_MAX:
            raise self._error(f"no more than {_REPEAT_MAX} repetitions")
        self._space(newlines=False)
        return int(digits)

    def _character(self) -> int:
        """One character of a literal or class, unescaped."""
        character = self._peek()
        if not character:
            raise self._error("the grammar ends inside a literal or a class")
        if character != "\\":
            self._at += 1
            return ord(character)
        kind = self._peek(1)
        if kind in _HEX_ESCAPES:
            return self._hex(_HEX_ESCAPES[kind])
        if kind not in _ESCAPES:
            raise self._error(f"there is no escape '\\{kind}'")
        self._at += 2
        return ord(_ESCAPES[kind])

    def _hex(self, length: int) -> int:
        digits = self._text[self._at + 2 : self._at + 2 + length]
        if len(digits) < length or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
            raise self._error(f"{length} hexadecimal digits must follow here")
        if int(digits, 16) > LAST_CODE_POINT:
            raise self._error("there is no such character")
        self._at += 2 + length
        return int(digits, 16)

    def _name(self) -> str:
        start = self._at
        while self._peek() and self._peek() in _NAME:
            self._at += 1
        if start == self._at:
            raise self._error("a rule's name must stand here")
        return self._text[start : self._at]

    def _space(self, *, newlines: bool) -> None:
        blank = " \t\r\n" if newlines else " \t"
        while self._peek() and self._peek() in blank + "#":
            if self._peek() == "#":
                while self._peek() not in ("", "\r", "\n"):
                    self._at += 1
            else:
                self._at += 1

    def _expect(self, sign: str, what: str) -> None:
        if not self._text.startswith(sign, self._at):
            raise self._error(f"{what} must stand here")
        self._at += len(sign)

    def _peek(self, ahead: int = 0) -> str:
        return self._text[self._at + ahead : self._at + ahead + 1]

    def _place(self) -> str:
        line = bisect_right(self._line_starts, self._at)
        return f"line {line}, column {self._at - self._line_starts[line - 1] + 1}"

    def _error(self, message: str) -> TwdError:
        near = self._text[self._at : self._at + 20].split("\n")[0]
        return bad_grammar(f"Grammar, {self._place()}: {message}" + (f" (near '{near}')." if near else "."))
