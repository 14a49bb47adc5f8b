"""A model in several files, as llama.cpp's `llama-gguf-split` writes it."""

from pathlib import Path

import gguf
import numpy as np

from tests.gguf_fields import fields_of
from twd.gguf_tools.header import GgufHeader, TensorInfo, read_header


def split(whole: Path, folder: Path, count: int) -> list[Path]:
    """Write a model to so many files: the first has every field, and each its share of the tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    header = read_header(whole)
    size = -(-len(header.tensors) // count)
    paths = [folder / f"{whole.stem}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]
    for number, path in enumerate(paths):
        writer = gguf.GGUFWriter(path, header.text("general.architecture"))
        for field in fields_of(whole) if not number else ():
            if field.name != "general.architecture":
                field.write(writer)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(header.tensors))
        for tensor in header.tensors[number * size : (number + 1) * size]:
            kind = gguf.GGMLQuantizationType(tensor.kind.value)
            writer.add_tensor(tensor.name, _stored(header, tensor), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return paths


def _stored(header: GgufHeader, tensor: TensorInfo) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The bytes of a tensor, row by row."""
    rows = tensor.shape[:0:-1]
    found = np.fromfile(header.path, np.uint8, tensor.size_bytes, offset=header.data_offset + tensor.offset)
    return found.reshape(*rows, -1)
