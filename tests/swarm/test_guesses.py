"""Models on a hub that resemble one of this machine: what they share is taken from there, and checked as a whole."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from tests.models.hubs import Hub, Repository, serving_hub
from tests.models.test_reuse import ROWS, model
from tests.swarm.world import world_in
from twd.gguf_tools.header import read_header
from twd.models.alike import PROBES_BYTES_MAX, alike_models, alike_ranges, same_ranges
from twd.models.client import HubClient
from twd.models.environment import HubEnvironment
from twd.models.hub import found_on_hub
from twd.models.spec import parse_spec
from twd.models.stores import ModelStore, StoredModel
from twd.pieces.tree import UNIT
from twd.swarm.hub.transfer import HubTransfer
from twd.wire.base import NodeId
from twd.wire.swarm import PullFinished, PullWanted

SPEC = "org/Model-GGUF:Q4_K_M"


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    made = Hub()
    async with serving_hub(made):
        yield made


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The folder with a model of this machine."""
    (tmp_path / "here").mkdir()
    model(tmp_path / "here/old.gguf", "short")
    return tmp_path / "here"


def offer(hub: Hub, wanted: Path) -> bytes:
    """Put a file on the hub."""
    data = wanted.read_bytes()
    hub.repositories["org/Model-GGUF"] = Repository({"m-Q4_K_M.gguf": data})
    return data


async def pulled(hub: Hub, wanted: Path, here: Path) -> HubTransfer:
    """The transfer of a file that the hub has, to a machine that has other models."""
    data = offer(hub, wanted)
    environment = HubEnvironment(endpoint=hub.url)
    async with found_on_hub(parse_spec(SPEC, hub_hosts=environment.hosts), environment) as found:
        client = HubClient(hub.url)
        target = wanted.with_name("pulled.gguf")
        transfer = HubTransfer(client, found.files[0], target, stores=[ModelStore("here", here)])
        async with asyncio.timeout(30):
            await transfer.run()
        await client.close()
    assert target.read_bytes() == data
    assert transfer.counts.fetched_bytes <= hub.sent_bytes <= transfer.counts.fetched_bytes + 4
    return transfer


async def test_of_a_changed_template_little_more_than_the_header_comes(hub: Hub, here: Path, tmp_path: Path) -> None:
    wanted = tmp_path / "new.gguf"
    model(wanted, "a longer template " * 77)
    transfer = await pulled(hub, wanted, here)
    assert transfer.counts.fetched_bytes <= read_header(wanted).data_offset + 2 * UNIT
    assert transfer.counts.by_source["here"] >= wanted.stat().st_size - 2 * UNIT


async def test_another_model_of_the_same_shape_is_found_out_by_a_few_bytes(
    hub: Hub, here: Path, tmp_path: Path
) -> None:
    wanted = tmp_path / "other.gguf"
    model(wanted, seed=2)
    transfer = await pulled(hub, wanted, here)
    assert "here" not in transfer.counts.by_source
    assert transfer.counts.fetched_bytes <= wanted.stat().st_size + PROBES_BYTES_MAX


async def test_a_difference_that_no_comparison_met_is_found_in_the_end(hub: Hub, here: Path, tmp_path: Path) -> None:
    wanted = tmp_path / "sly.gguf"
    model(wanted, "a longer template " * 77)
    data = bytearray(wanted.read_bytes())
    data[-5000] ^= 1  # near the end of the last tensor
    wanted.write_bytes(data)
    transfer = await pulled(hub, wanted, here)
    assert "here" not in transfer.counts.by_source
    assert transfer.counts.fetched_bytes <= len(data) + PROBES_BYTES_MAX


async def test_what_comes_in_place_of_a_wrong_guess_is_hashed_when_it_is_there(
    hub: Hub, here: Path, tmp_path: Path
) -> None:
    model(here / "old.gguf", layers=24)
    wanted = tmp_path / "sly.gguf"
    model(wanted, layers=24)
    header, data = read_header(wanted), bytearray(wanted.read_bytes())
    places = {one.name: header.data_offset + one.offset for one in header.tensors}
    data[places["blk.16.ffn_up.weight"] - 5000] ^= 1  # no comparison meets it
    begin = places["blk.20.ffn_up.weight"]
    data[begin : begin + 4 * ROWS] = np.ones(ROWS, np.float32).tobytes()
    wanted.write_bytes(data)
    hub.bytes_s = 2 * UNIT
    transfer = await pulled(hub, wanted, here)
    assert "here" not in transfer.counts.by_source


async def test_tensors_that_differ_are_fetched_and_the_others_are_not(hub: Hub, here: Path, tmp_path: Path) -> None:
    wanted = tmp_path / "tuned.gguf"
    model(wanted, "tuned")
    header = read_header(wanted)
    changed = next(one for one in header.tensors if one.name == "blk.5.ffn_up.weight")
    data = bytearray(wanted.read_bytes())
    begin = header.data_offset + changed.offset
    data[begin : begin + changed.size_bytes] = np.ones(ROWS, np.float32).tobytes()
    wanted.write_bytes(data)
    transfer = await pulled(hub, wanted, here)
    assert transfer.counts.fetched_bytes <= header.data_offset + changed.size_bytes + 4 * UNIT
    assert transfer.counts.by_source["here"] > len(data) // 2


async def test_guesses_are_nothing_that_a_later_pull_believes(hub: Hub, here: Path, tmp_path: Path) -> None:
    wanted = tmp_path / "new.gguf"
    model(wanted, "a longer template " * 77)
    offer(hub, wanted)
    environment = HubEnvironment(endpoint=hub.url)
    async with found_on_hub(parse_spec(SPEC, hub_hosts=environment.hosts), environment) as found:
        client = HubClient(hub.url)
        transfer = HubTransfer(client, found.files[0], tmp_path / "pulled.gguf", stores=[ModelStore("here", here)])
        await transfer._take_tensors()
        assert transfer.pull.sampler.left < transfer.file.have.length - transfer.file.have.count
        assert transfer.file.have.count == 1, "only what came from the hub"
        transfer.file.close()
        await client.close()


async def test_a_machine_with_the_model_tells_hashes_and_nothing_is_guessed(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    wanted = tmp_path / "new.gguf"
    model(wanted, "a longer template " * 77)
    offer(hub, wanted)
    async with world_in(tmp_path) as world:
        await world.machine("a")
        await world.ask(PullWanted(node=NodeId("a"), spec=SPEC))
        await world.until(PullFinished)
        await world.services["a"].renew_lease()
        sent = hub.sent_bytes
        (world.home("b") / "models").mkdir(parents=True)
        model(world.home("b") / "models/old.gguf", "short")
        await world.machine("b")
        await world.ask(PullWanted(node=NodeId("b"), spec=SPEC))
        _, done = await world.until(PullFinished, 2)
        assert isinstance(done, PullFinished)
        assert done.fetched_bytes <= 2 * UNIT
        assert hub.sent_bytes <= sent + 4, "perhaps it looked whether that is a model"
        assert (world.home("b") / "models/m-Q4_K_M.gguf").read_bytes() == wanted.read_bytes()


# -- the decisions ---------------------------------------------------------------------------------


def test_small_tensors_follow_their_neighbours(tmp_path: Path) -> None:
    model(tmp_path / "old.gguf")
    model(tmp_path / "new.gguf", "longer")
    header = read_header(tmp_path / "new.gguf")
    (found,) = alike_models(header, [StoredModel("here", tmp_path / "old.gguf")], ())
    same = {one.begin for one in found.large}
    assert same_ranges(header, found, same) == found.ranges
    without = same - {found.large[3].begin}
    kept = same_ranges(header, found, without)
    begins = {one.begin for one in found.ranges} - {one.begin for one in kept}
    assert len(begins) == 3, "the one that differs, and the small ones on both sides"


def test_models_of_other_types_and_broken_ones_have_nothing_in_common(tmp_path: Path) -> None:
    model(tmp_path / "old.gguf", kind=np.float16)
    model(tmp_path / "new.gguf")
    (tmp_path / "cut.gguf").write_bytes((tmp_path / "new.gguf").read_bytes()[:2000])
    header = read_header(tmp_path / "new.gguf")
    stored = [StoredModel("here", tmp_path / name) for name in ("old.gguf", "cut.gguf", "gone.gguf")]
    assert alike_models(header, stored, ()) == []
    assert all(one.end - one.begin < UNIT for one in alike_ranges(header, stored[0]))
