"""Command lines of what an agent starts for others, and where its files come from."""

from pathlib import Path
from typing import Literal

import pytest

from tests.engine.tiny_models import write_llama
from twd.agent.launch import cache_argv, drafter_argv, find_draft_model, rpc_argv
from twd.gguf_tools.model_file import read_model
from twd.settings.model import PoolConfig
from twd.wire.base import NodeId
from twd.wire.failures import TwdError
from twd.wire.node import DrafterWanted, ProcessKind, ProcessWanted


def wish(drafter: DrafterWanted | None) -> ProcessWanted:
    return ProcessWanted(
        node=NodeId("desk"), process="drafter.pool.q.0", kind=ProcessKind.DRAFTER, threads=3, drafter=drafter
    )


def test_a_drafter_is_told_all_that_its_settings_say() -> None:
    told = DrafterWanted(name="-q", path="p", for_model="big", ctx_size=512, gpu_layers="7")
    argv = drafter_argv(wish(told), "/m/q.gguf")
    assert argv[3:6] == ("twd", "run", "drafter")
    assert argv[6:] == (
        "--model=/m/q.gguf", "--name=-q", "--for-model=big", "--ctx=512", "--threads=3", "--gpu-layers=7",
    )  # fmt: skip


@pytest.mark.parametrize(("size", "told"), [("auto", "0"), (1.5, str(3 * 2**29))])
def test_a_worker_of_ours_is_told_where_it_keeps_weights(size: Literal["auto"] | float, told: str) -> None:
    cache = cache_argv(Path("/h/desk.rpc"), PoolConfig(worker_cache=size))
    assert cache == ("--cache", "/h/desk.rpc", "--cache-bytes", told)
    assert rpc_argv("", "h", 1, 2, (), cache)[-6:-2] == cache
    assert rpc_argv("/bin/rpc-server", "h", 1, 2, (), cache) == ("/bin/rpc-server", "-H", "h", "-p", "1", "-t", "2")


def test_a_worker_keeps_none_where_its_owner_says_so() -> None:
    assert cache_argv(Path("/h/desk.rpc"), PoolConfig(worker_cache=0)) == ()


def test_its_file_is_found_by_hash_or_where_the_owner_named_it(tmp_path: Path) -> None:
    path = str(write_llama(tmp_path / "tiny.gguf"))
    model = read_model(Path(path))
    far = DrafterWanted(name="q", path="/elsewhere/q.gguf", hash=model.hash)
    assert find_draft_model(wish(far), [model], ()) == path
    here = DrafterWanted(name="q", path=path, hash="o" * 32)
    assert find_draft_model(wish(here), [], {path}) == path
    assert find_draft_model(wish(DrafterWanted(name="q", path=path)), [model], ()) == path
    for wanted, named in ((here, set()), (far, {far.path})):
        with pytest.raises(TwdError, match="there is no copy of"):
            find_draft_model(wish(wanted), [], named)
