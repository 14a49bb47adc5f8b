"""Loads a trained head that the settings name; what does not fit is refused before llama.cpp sees it."""

from pathlib import Path

from twd.engine.context import Context
from twd.engine.heads.binding import heads_available
from twd.engine.heads.block import BlockHead
from twd.engine.heads.eagle import EagleHead
from twd.engine.heads.head import GuessingHead, layers_head
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.gguf_tools.head_file import HEAD_FILES, block_facts, head_problem, holds_layers_alone, layers_read
from twd.gguf_tools.header import read_header
from twd.wire.failures import FailureCode, TwdError


def load_head(target: Context, path: Path) -> GuessingHead:
    """Load a head for a target; raises TwdError if the file is no head, or not one for this model."""
    header = read_header(path)
    problem = head_problem(header, target.model.info)
    if problem:
        raise TwdError(FailureCode.BAD_REQUEST, problem)
    if not heads_available():
        raise TwdError(FailureCode.UNSUPPORTED, "this build of llama.cpp does not export what heads need")
    model, block = LoadedGguf.load(ModelLoadOptions(path, head=True)), block_facts(header)
    try:
        if model.vocab.size != target.model.vocab.size:
            sizes = f"that knows {model.vocab.size} tokens, this one {target.model.vocab.size}"
            raise TwdError(FailureCode.BAD_REQUEST, f"{path.name} is a head of another model: {sizes}")
        if model.head_layers:
            return layers_head(target, model)
        return EagleHead(target, model, layers_read(header)) if block is None else BlockHead(target, model, block)
    except BaseException:
        model.close()
        raise


def refuse_head(path: Path) -> None:
    """Raise TwdError if a file that is to be served holds a head."""
    header = read_header(path)
    if header.text("general.architecture") in HEAD_FILES or holds_layers_alone(header):
        text = f"{path.name} holds a head for another model; name it as `drafters: [{{head: {path}}}]`"
        raise TwdError(FailureCode.BAD_REQUEST, text)
