"""Code point ranges as sequences of byte ranges, so that a grammar can be followed byte by byte."""

from collections.abc import Iterable, Iterator

LAST_CODE_POINT = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)
_LONGEST_OF_LENGTH = (0x7F, 0x7FF, 0xFFFF, LAST_CODE_POINT)

ByteRange = tuple[int, int]


def utf8_sequences(ranges: Iterable[tuple[int, int]]) -> list[list[ByteRange]]:
    """Byte range sequences that together match exactly the UTF-8 of the given inclusive ranges."""
    return [sequence for low, high in ranges for sequence in _of_range(low, high)]


def inverted(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """All code points but these, and but NUL."""
    found = []
    low = 1
    for start, end in sorted(ranges):
        if start > low:
            found.append((low, start - 1))
        low = max(low, end + 1)
    if low <= LAST_CODE_POINT:
        found.append((low, LAST_CODE_POINT))
    return tuple(found)


def _of_range(low: int, high: int) -> Iterator[list[ByteRange]]:
    for start, end in _without_surrogates(low, min(high, LAST_CODE_POINT)):
        for longest in _LONGEST_OF_LENGTH:
            if start <= min(end, longest):
                yield from _of_equal_length(_encoded(start), _encoded(min(end, longest)))
                start = longest + 1


def _without_surrogates(low: int, high: int) -> Iterator[tuple[int, int]]:
    first, last = _SURROGATES
    if low < first:
        yield low, min(high, first - 1)
    if high > last:
        yield max(low, last + 1), high


def _encoded(code_point: int) -> bytes:
    return chr(code_point).encode("utf-8")


def _of_equal_length(low: bytes, high: bytes) -> Iterator[list[ByteRange]]:
    """Splits until all bytes after the first differing one run over their whole range."""
    if len(low) == 1 or low[0] == high[0]:
        tails = _of_equal_length(low[1:], high[1:]) if len(low) > 1 else iter([[]])
        for tail in tails:
            yield [(low[0], high[0]), *tail]
        return
    first, last = low[0], high[0]
    rest = len(low) - 1
    if low[1:] != b"\x80" * rest:
        yield from _of_equal_length(low, low[:1] + b"\xbf" * rest)
        first += 1
    if high[1:] != b"\xbf" * rest:
        last -= 1
    if first <= last:
        yield [(first, last), *[(0x80, 0xBF)] * rest]
    if last < high[0]:
        yield from _of_equal_length(high[:1] + b"\x80" * rest, high)
