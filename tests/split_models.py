"""A model in several files, as llama.cpp's `llama-gguf-split` writes it."""

from pathlib import Path

import gguf
import numpy as np


def split(whole: Path, folder: Path, count: int) -> list[Path]:
    """Write a model to so many files: the first has every field, and each its share of the tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    reader = gguf.GGUFReader(whole)
    size = -(-len(reader.tensors) // count)
    paths = [folder / f"{whole.stem}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]
    architecture = str(reader.fields["general.architecture"].contents())
    for number, path in enumerate(paths):
        writer = gguf.GGUFWriter(path, architecture)
        for key, field in reader.fields.items() if not number else ():
            if not key.startswith("GGUF.") and key != "general.architecture":
                writer.add_key_value(key, field.contents(), field.types[0], _inner(field))
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in reader.tensors[number * size : (number + 1) * size]:
            writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return paths


def _inner(field: gguf.ReaderField) -> gguf.GGUFValueType | None:
    """The type of an array's elements."""
    return field.types[-1] if len(field.types) > 1 else None
