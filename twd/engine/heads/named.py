"""Loads a trained head that the settings name; what does not fit is refused before llama.cpp sees it."""

from pathlib import Path

from twd.engine.context import Context
from twd.engine.heads.binding import heads_available
from twd.engine.heads.block import BlockHead
from twd.engine.heads.block_kinds import MarkovHead, SelectorHead
from twd.engine.heads.eagle import EagleHead
from twd.engine.heads.head import GuessingHead, layers_head
from twd.engine.heads.shared import SharedHead
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.gguf_tools.block_head import BlockKind, block_facts
from twd.gguf_tools.head_file import HEAD_FILES, head_problem, holds_layers_alone, layers_read
from twd.gguf_tools.header import GgufHeader, read_header
from twd.gguf_tools.shared_head import SHARED
from twd.wire.failures import FailureCode, TwdError


def load_head(target: Context, path: Path) -> GuessingHead:
    """Load a head for a target; raises TwdError if the file is no head, or not one for this model."""
    header = read_header(path)
    problem = head_problem(header, target.model.info)
    if problem:
        raise TwdError(FailureCode.BAD_REQUEST, problem)
    if not heads_available():
        raise TwdError(FailureCode.UNSUPPORTED, "this build of llama.cpp does not export what heads need")
    model = LoadedGguf.load(ModelLoadOptions(path, head=True))
    try:
        if model.vocab.size != target.model.vocab.size:
            sizes = f"that knows {model.vocab.size} tokens, this one {target.model.vocab.size}"
            raise TwdError(FailureCode.BAD_REQUEST, f"{path.name} is a head of another model: {sizes}")
        return _head_of(target, model, header)
    except BaseException:
        model.close()
        raise


def _head_of(target: Context, model: LoadedGguf, header: GgufHeader) -> GuessingHead:
    facts = block_facts(header)
    if header.text("general.architecture") == SHARED:
        return SharedHead(target, model)
    if model.head_layers:
        return layers_head(target, model)
    if facts is None:
        return EagleHead(target, model, layers_read(header))
    if facts.kind is BlockKind.DSPARK:
        return MarkovHead(target, model, facts, header)
    return (BlockHead if facts.kind is BlockKind.DFLASH else SelectorHead)(target, model, facts)


def refuse_head(path: Path) -> None:
    """Raise TwdError if a file that is to be served holds a head."""
    header = read_header(path)
    if header.text("general.architecture") in HEAD_FILES or holds_layers_alone(header):
        text = f"{path.name} holds a head for another model; name it as `drafters: [{{head: {path}}}]`"
        raise TwdError(FailureCode.BAD_REQUEST, text)
