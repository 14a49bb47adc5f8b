"""Any event of the vocabulary with any values that its schema allows, and bytes that it does not allow."""

import random
from typing import Any

import msgspec
from msgspec import inspect

from twd.wire.base import Event, InstanceId
from twd.wire.codec import encode
from twd.wire.routes import ROUTES, Route

_WORDS = ("", "a", "m", "s-1", "job-1", "speculator.n.abc", "ü€😀", "x" * 300, "..", "*", ">", "\x00", "d")


LIAR = InstanceId("edge.n.x")


class EventMaker:
    """Draws events from a seed; `known` values are mixed in, so that some events speak of real things."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self.known: dict[str, list[Any]] = {}

    def event(self) -> tuple[Route, Event]:
        """Some valid event."""
        route = self._dice.choice(ROUTES)
        return route, self._build(inspect.type_info(route.event))

    def message(self) -> tuple[str, bytes]:
        """A subject and the bytes on it: mostly valid, sometimes cut, swapped or made of noise."""
        route, event = self.event()
        if self._dice.random() < 0.8:  # as their publisher would sign it: others are left aside before they are read
            named = {name: "n" if name == "node" else LIAR for name in route.own}
            event = msgspec.structs.replace(event, source=LIAR, **named)
        data, subject = encode(event), route.subject(event)
        match self._dice.randrange(12):
            case 0:
                data = data[: self._dice.randrange(len(data))]
            case 1:
                data = self._dice.randbytes(self._dice.randrange(60))
            case 2:
                subject = self._dice.choice(ROUTES).tag + (".x" if self._dice.random() < 0.5 else "")
            case 3:
                data = data.replace(b":", self._dice.choice((b":[", b":-1e999,", b"::")), 1)
            case 4:
                data = b'{"type":"' + route.tag.encode() + b'","job":' + b"[" * 5000
            case _:
                pass
        return subject, data

    def _build(self, info: Any, name: str = "", depth: int = 0) -> Any:
        dice = self._dice
        if name in self.known and dice.random() < 0.6:
            return dice.choice(self.known[name])
        match info:
            case inspect.StructType():
                fields = {
                    field.name: self._build(field.type, field.name, depth + 1)
                    for field in info.fields
                    if field.required or dice.random() < (0.6 if depth < 4 else 0.1)
                }
                return info.cls(**fields)
            case inspect.ListType():
                most = min(info.max_length or 8, 8)
                return [
                    self._build(info.item_type, "", depth + 1) for _ in range(dice.randint(info.min_length or 0, most))
                ]
            case inspect.DictType():
                keys = [self._build(info.key_type, "", depth + 1) for _ in range(dice.randint(0, 3))]
                return {key: self._build(info.value_type, "", depth + 1) for key in keys}
            case inspect.UnionType():
                return self._build(dice.choice(info.types), name, depth)
            case inspect.EnumType():
                return dice.choice(list(info.cls))
            case inspect.LiteralType():
                return dice.choice(info.values)
            case _:
                return self._scalar(info)

    def _scalar(self, info: Any) -> Any:
        dice = self._dice
        match info:
            case inspect.IntType():
                low = info.ge if info.ge is not None else (info.gt + 1 if info.gt is not None else -5)
                high = info.le if info.le is not None else (info.lt - 1 if info.lt is not None else 2**53 - 1)
                return dice.choice((low, high, dice.randint(low, high), min(high, low + dice.randrange(60))))
            case inspect.FloatType():
                least = info.ge if info.ge is not None else (info.gt + 1e-6 if info.gt is not None else -10.0)
                most = info.le if info.le is not None else (info.lt - 1e-6 if info.lt is not None else 1e6)
                return float(dice.choice((least, most, dice.uniform(least, most))))
            case inspect.StrType():
                word = dice.choice(_WORDS)
                word = word[: info.max_length] if info.max_length is not None else word
                return word or ("a" if info.min_length else "")
            case inspect.BoolType():
                return dice.random() < 0.5
            case inspect.RawType():
                return msgspec.Raw(b'{"a":1}')
            case inspect.BytesType():
                return b"x"
            case _:
                return None
