"""The constants of the GGUF format, imported from the `gguf` package without the rest of it."""

from twd.lean_import import bare

with bare("gguf"):
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType, LlamaFileType

__all__ = ["GGML_QUANT_SIZES", "GGMLQuantizationType", "GGUFValueType", "LlamaFileType"]
