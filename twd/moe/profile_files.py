"""Profiles as files: our own JSON, logs, tables, and the counts of llama.cpp's imatrix files."""

import math
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from twd.gguf_tools.header import GgufHeader, read_header
from twd.gguf_tools.model_file import file_hash
from twd.moe.model import EXPERTS_MAX, read_mixture
from twd.moe.names import fused_of, indexed_of
from twd.moe.profile import ExpertCounter, ExpertProfile
from twd.private_file import write_private
from twd.settings.paths import path_of
from twd.wire.failures import FailureCode, TwdError
from twd.wire.reading import NONSENSE

LAYERS_MAX: Final = 4096
_HITS_MAX: Final = 1e15
_BYTES_MAX: Final = 256 << 20
"""Of a profile that must be read whole; a log may be of any size."""
_LINE_MAX: Final = 1 << 16
_CHOICE: Final = re.compile(r"moe: layer=(\d{1,9}) chosen=\[([\d,\s-]*)\]")
_ROW: Final = re.compile(r"^\s*(-?\d{1,18})\s*[,;\t]\s*(-?\d{1,18})\s*[,;\t]\s*(\S+)\s*$")
_COUNTS: Final = ".counts"
_PARTS: Final = ("gate_up", "gate", "up", "down")


class BrokenProfile(TwdError):
    """A profile that cannot be used."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(FailureCode.BAD_REQUEST, f"{path}: {what}")


class _TopExpert(msgspec.Struct):
    layer: int
    expert: int
    hits: float


class _PeerAnswer(msgspec.Struct):
    """What `GET /v1/peer/moe/profile` answers."""

    top_experts: list[_TopExpert]
    total_tokens: float = 0.0


def kept_profile(home: Path, model: Path) -> Path:
    """Where the profile of a model is kept: by its hash, in the state folder."""
    return home / "moe" / f"{file_hash(model)}.json"


def write_profile(path: Path, profile: ExpertProfile) -> None:
    """Keep a profile, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_private(path, msgspec.json.encode(profile))


def read_profile(path: Path) -> ExpertProfile:
    """A profile out of any kind of file that tells of experts; raises BrokenProfile."""
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except OSError as error:
        raise BrokenProfile(path, f"cannot be read ({error.strerror}); check the path of the profile") from None
    if start[:4] == b"GGUF":
        return _checked(path, _imatrix(path, read_header(path)))
    if start.lstrip()[:1] == b"{":
        return _checked(path, _json(path, _whole(path)))
    if b"\0" in start:
        return _checked(path, _legacy_imatrix(path, _whole(path)))
    with path.open(encoding="utf-8", errors="replace") as lines:
        return _checked(path, read_lines(path, lines))


def parse_answer(source: str, data: bytes) -> ExpertProfile:
    """What an agent answers."""
    path = Path(source)
    return _checked(path, _json(path, data))


def choices_in(lines: Iterable[str]) -> Iterator[tuple[int, list[int]]]:
    """The layers and their experts that lines of LLAMA_LOG_MOE tell."""
    for line in lines:
        for layer, chosen in _CHOICE.findall(line[:_LINE_MAX]):
            yield int(layer), [int(expert) for expert in re.findall(r"-?\d+", chosen)]


def read_lines(path: Path, lines: Iterable[str]) -> ExpertProfile:
    """Counts in the lines of a log, or in a table of layer, expert and count; other lines are passed over."""
    counter = ExpertCounter()
    for number, line in enumerate(lines, 1):
        for layer, chosen in choices_in((line,)):
            for expert in chosen:
                _check_place(path, layer, expert)
            counter.add(layer, chosen)
        if (row := _ROW.match(line)) is not None:
            _add_row(path, counter, number, row)
    return counter.profile()


def _add_row(path: Path, counter: ExpertCounter, number: int, row: re.Match[str]) -> None:
    layer, expert = int(row[1]), int(row[2])
    try:
        count = float(row[3])
    except ValueError:
        raise BrokenProfile(path, f"line {number}: {row[3][:40]!r} is no count; write layer,expert,count") from None
    _check_place(path, layer, expert)
    _check_count(path, count)
    counter.add_hits(layer, expert, count)


def _whole(path: Path) -> bytes:
    size = path.stat().st_size
    if size > _BYTES_MAX:
        raise BrokenProfile(path, f"is {size / 2**20:.0f} MiB, and no profile is larger than {_BYTES_MAX >> 20} MiB")
    return path.read_bytes()


def _json(path: Path, data: bytes) -> ExpertProfile:
    try:
        if b'"top_experts"' in data:
            answer = msgspec.json.decode(data, type=_PeerAnswer)
            counter = ExpertCounter()
            for one in answer.top_experts:
                counter.add_hits(one.layer, one.expert, one.hits)
            return msgspec.structs.replace(counter.profile(), tokens=answer.total_tokens)
        return msgspec.json.decode(data, type=ExpertProfile)
    except NONSENSE as error:
        text = f"is no profile, or only the beginning of one ({error}); make it anew with `twd moe profile`"
        raise BrokenProfile(path, text) from None


def _imatrix(path: Path, header: GgufHeader) -> ExpertProfile:
    """The counts of experts; all matrices of an expert are counted alike, so one of them is enough."""
    if header.text("general.type") != "imatrix":
        raise BrokenProfile(path, "is a model, not a profile; name a profile, a log or an imatrix file")
    counted = {tensor.name.removesuffix(_COUNTS): tensor for tensor in header.tensors if tensor.name.endswith(_COUNTS)}
    found: dict[tuple[str, int], list[tuple[int, float]]] = {}
    with path.open("rb") as file:
        for name, tensor in counted.items():
            if tensor.size_bytes > 4 * EXPERTS_MAX or tensor.size_bytes != 4 * tensor.elements:
                raise BrokenProfile(path, f"{tensor.name!r} holds {tensor.elements} counts; make the file anew")
            file.seek(header.data_offset + tensor.offset)
            values = struct.unpack(f"<{tensor.elements}f", file.read(tensor.size_bytes))
            _take_counts(found, name, values)
    return _of_one_part(path, found)


def _take_counts(found: dict[tuple[str, int], list[tuple[int, float]]], name: str, values: tuple[float, ...]) -> None:
    if (fused := fused_of(name)) is not None and len(values) > 1:
        found.setdefault((fused.part, fused.layer), []).extend(enumerate(values))
    elif (one := indexed_of(name)) is not None and values:
        found.setdefault((one[0].part, one[0].layer), []).append((one[1], values[0]))


def _of_one_part(path: Path, found: dict[tuple[str, int], list[tuple[int, float]]]) -> ExpertProfile:
    counter = ExpertCounter()
    for layer in sorted({layer for _, layer in found}):
        part = next(part for part in _PARTS if (part, layer) in found)
        for expert, count in found[part, layer]:
            _check_place(path, layer, expert)
            _check_count(path, count)
            counter.add_hits(layer, expert, count)
    return counter.profile()


def _legacy_imatrix(path: Path, data: bytes) -> ExpertProfile:
    """The old imatrix format keeps one count for each tensor: of fused experts it does not tell which was used."""
    found: dict[tuple[str, int], list[tuple[int, float]]] = {}
    fused = False
    try:
        (entries,) = struct.unpack_from("<i", data)
        at = 4
        for _ in range(entries):
            (length,) = struct.unpack_from("<i", data, at)
            if not 0 < length < _LINE_MAX:
                raise struct.error
            name = data[at + 4 : at + 4 + length].decode("utf-8", "replace")
            calls, values = struct.unpack_from("<ii", data, at + 4 + length)
            at += 12 + length + 4 * values
            if values < 0 or at > len(data):
                raise struct.error
            fused = fused or fused_of(name) is not None
            _take_counts(found, name, (float(calls),))
    except struct.error:
        text = "is no profile, log, table or imatrix file that can be read, or it is cut short; make it anew"
        raise BrokenProfile(path, text) from None
    if not found and fused:
        text = "this old imatrix format does not tell which experts were used; "
        raise BrokenProfile(path, text + "make it anew with a llama-imatrix that writes GGUF")
    return _of_one_part(path, found)


def _checked(path: Path, profile: ExpertProfile) -> ExpertProfile:
    """The profile, if every number in it can be true."""
    for layer, counts in profile.hits.items():
        for expert, count in counts.items():
            _check_place(path, layer, expert)
            _check_count(path, count)
    for layer, chosen in profile.trace:
        for expert in chosen:
            _check_place(path, layer, expert)
    for number in (profile.tokens, profile.updated_at, *(n for pair in profile.again.values() for n in pair)):
        _check_count(path, number)
    if profile.choices <= 0:
        text = "tells of no expert; a program must write them (LLAMA_LOG_MOE=1), or `twd moe profile -m MODEL` counts"
        raise BrokenProfile(path, text)
    return profile


def _check_place(path: Path, layer: int, expert: int) -> None:
    if not (0 <= layer < LAYERS_MAX and 0 <= expert < EXPERTS_MAX):
        raise BrokenProfile(path, f"it counts expert {expert} of layer {layer}, which no model has; make it anew")


def _check_count(path: Path, count: float) -> None:
    if not (math.isfinite(count) and 0 <= count <= _HITS_MAX):
        raise BrokenProfile(path, f"it holds the count {count:g}, which cannot be; make it anew")


def profile_path(named: str, home: Path, model: Path) -> Path | None:
    """The file of the profile to use: the named one, or the one that is kept; None if none is."""
    if named:
        return path_of(named)
    kept = kept_profile(home, model)
    return kept if kept.exists() else None


def profile_for(source: Path, model: Path) -> ExpertProfile:
    """The profile in a file, which must be of this model."""
    profile, mixture = read_profile(source), read_mixture(model)
    require_profile_of(profile, source, model=file_hash(model), layers=mixture.layers, experts=mixture.experts)
    return profile


def require_profile_of(profile: ExpertProfile, path: Path, *, model: str, layers: int, experts: int) -> None:
    """Raise where a profile is of another model than the one with this hash and shape."""
    if profile.model and profile.model != model:
        text = f"it is a profile of {profile.name or 'another model'} ({profile.model[:8]}), not of this file"
        raise BrokenProfile(path, f"{text} ({model[:8]}); make one with `twd moe profile -m MODEL`")
    for layer, counts in profile.hits.items():
        worst = max(counts, default=0)
        if layer >= layers or worst >= experts:
            text = f"it counts expert {worst} of layer {layer}, but this model has {layers} layers of {experts} experts"
            raise BrokenProfile(path, f"{text}; it is a profile of another model")
