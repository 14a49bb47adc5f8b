"""Where a model is copied to: what is read from the command line, and what of it reaches a shell."""

import shlex
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.cli.distribute.command import workers_by_ssh
from twd.cli.distribute.targets import (
    SWARM_FROM,
    SshProbe,
    SshTarget,
    choose,
    parse_target,
    probe_script,
    read_probe,
    rsync_argv,
    scp_argv,
    ssh_argv,
    swarm_script,
)
from twd.kit.errors import CommandError
from twd.settings.model import PoolConfig, WorkerConfig

BARE = SshProbe(has_twd=False, has_rsync=False, sees_us_as="10.0.0.1")
ALL = SshProbe(has_twd=True, has_rsync=True, sees_us_as="10.0.0.1")


@pytest.mark.parametrize(
    ("text", "host", "path"),
    [
        ("box:/models", "box", "/models"),
        ("me@box:~/my models", "me@box", "~/my models"),
        ("me@[fe80::1%eth0]:x:y", "me@[fe80::1%eth0]", "x:y"),
    ],
)
def test_a_target_is_a_host_and_a_path(text: str, host: str, path: str) -> None:
    assert parse_target(text) == SshTarget(host, path)


@pytest.mark.parametrize("text", ["", "box", "box:", ":/x", "-oProxyCommand=x:/y", "a b:/x", "/box:/x", "box:/x\ny"])
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="HOST:PATH"):
        parse_target(text)


PATHS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0\n"), min_size=1, max_size=20)


@given(PATHS)
def test_no_path_means_anything_to_a_shell(path: str) -> None:
    words = shlex.split(SshTarget("box", path).shell_path)
    home = path == "~" or path.startswith("~/")
    expected = f"$HOME{path[1:]}".removesuffix("/" if path == "~/" else "") if home else path
    assert words == [f"./{path}" if path.startswith("-") else expected]


@pytest.mark.parametrize("path", ["~/a b", "/x;touch y", "$(id)", "`id`", "a'b\"c", "-rf", "*"])
def test_a_real_shell_takes_it_as_one_word(path: str) -> None:
    script = f"printf %s {SshTarget('box', path).shell_path}"
    said = subprocess.run(["sh", "-c", script], env={"HOME": "/h"}, capture_output=True, text=True, check=True).stdout
    assert said == {"~/a b": "/h/a b", "-rf": "./-rf"}.get(path, path)


@pytest.mark.parametrize(("path", "plain"), [("~", "./"), ("~/m", "m"), ("/m", "/m"), ("-x", "./-x"), ("~/-x", "./-x")])
def test_without_a_shell_paths_begin_at_home(path: str, plain: str) -> None:
    assert SshTarget("box", path).plain_path == plain


def test_no_argument_holds_the_token_or_can_become_an_option() -> None:
    target = parse_target("me@box:/my models")
    for argv in (rsync_argv(["/m.gguf"], target, ["Port=22"]), scp_argv(["/m.gguf"], target, [])):
        assert argv[-3:] == ["--", "/m.gguf", "me@box:/my models"]
    argv = ssh_argv(target, ["Port=2222"], swarm_script(target, "http://10.0.0.1:9", "ab"))
    assert argv[-3:-1] == ["--", "me@box"]
    assert "Port=2222" in argv
    assert "'/my models'" in argv[-1]
    assert "read -r TWD_SWARM_TOKEN" in argv[-1]


def test_the_method_follows_from_size_and_what_is_there() -> None:
    assert choose("auto", SWARM_FROM, ALL, True) == "swarm"
    assert choose("auto", SWARM_FROM - 1, ALL, True) == "rsync"
    assert choose("auto", SWARM_FROM, BARE, True) == "scp"
    assert choose("rsync", SWARM_FROM, ALL, False) == "scp"
    assert choose("swarm", 1, ALL, False) == "swarm"
    with pytest.raises(CommandError, match="twd is not"):
        choose("swarm", 1, BARE, True)


def test_what_a_machine_tells_of_itself() -> None:
    assert read_probe("twd\nrsync\nfrom=10.0.0.1\n") == ALL
    assert read_probe("from=10.0.0.1\n") == BARE
    said = subprocess.run(["sh", "-c", probe_script()], capture_output=True, text=True, check=True).stdout
    assert read_probe(said).sees_us_as == "" or read_probe(said).sees_us_as


def test_workers_with_a_folder_are_targets() -> None:
    workers = (
        WorkerConfig(host="10.0.0.2", ssh_user="me", model_dir="~/models"),
        WorkerConfig(host="10.0.0.3"),
        WorkerConfig(host="fe80::1", model_dir="/m"),
    )
    assert workers_by_ssh(PoolConfig(workers=workers), []) == [
        SshTarget("me@10.0.0.2", "~/models"),
        SshTarget("[fe80::1]", "/m"),
    ]
