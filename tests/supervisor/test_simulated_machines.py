"""Machines that are played on this one: what the options of `twd up` make of them."""

from pathlib import Path

import pytest

from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.settings.model import DrafterConfig, ModelConfig, PoolConfig, Settings
from twd.supervisor.simulated_machines import SimulatedMachines, as_node


@pytest.mark.parametrize(("rpc", "ring", "rtt"), [(2, 2, 0.0), (17, 0, 0.0), (0, -1, 0.0), (2, 0, -1.0)])
def test_what_makes_no_sense_is_refused(rpc: int, ring: int, rtt: float) -> None:
    with pytest.raises(CommandError) as told:
        SimulatedMachines.asked(rpc, ring, rtt)
    assert told.value.exit_code is ExitCode.USAGE


def test_each_machine_has_an_agent_of_its_own_behind_its_link(tmp_path: Path) -> None:
    assert SimulatedMachines.asked(0, 0, 0.0) is None
    played = SimulatedMachines.asked(0, 2, 20.0)
    assert played is not None
    assert played.options == ("--ring=2", "--link-rtt=20")
    assert [(spec.name, spec.node, spec.argv[-4:]) for spec in played.agents()] == [
        ("agent.node-1", "node-1", ("--node", "node-1", "--link-rtt", "20")),
        ("agent.node-2", "node-2", ("--node", "node-2", "--link-rtt", "20")),
    ]
    models = {"one": ModelConfig(path=str(tmp_path / "one.gguf"))}
    settings = played.settings(Settings(home=str(tmp_path), models=models, pool=PoolConfig(stage_port=45100)))
    assert (settings.mode, settings.pool.engine, settings.pool.split) == ("combined", "ring", "even")
    assert not settings.pool.layers_at_home
    node = as_node(settings, "node-1")
    assert (node.node, node.home_dir, node.agent.port) == ("node-1", tmp_path / "nodes" / "node-1", 0)
    assert node.agent.counts_alone
    assert node.pool.stage_port == 0, "played machines share the ports of one"
    assert str(tmp_path / "models") in node.agent.model_dirs
    assert node.models == models, "their agents find the files where the settings name them"


def test_some_machines_may_have_no_models(tmp_path: Path) -> None:
    played = SimulatedMachines.asked(0, 3, 0.0, 2)
    assert played is not None
    assert played.options == ("--ring=3", "--link-rtt=0", "--bare=2")
    assert [spec.argv[-1] == "--bare" for spec in played.agents()] == [False, True, True]
    models = {"one": ModelConfig(path=str(tmp_path / "one.gguf"))}
    drafters = (DrafterConfig(path="quick.gguf", for_model="one"),)
    settings = played.settings(Settings(home=str(tmp_path), models=models, drafters=drafters))
    node = as_node(settings, "node-3", bare=True)
    assert (node.models, node.drafters, node.agent.model_dirs) == ({}, (), ())
    assert node.swarm.accept
    for rpc, ring, bare in ((2, 0, 1), (0, 2, 2), (0, 0, 1)):
        with pytest.raises(CommandError, match="--bare"):
            SimulatedMachines.asked(rpc, ring, 0.0, bare)
