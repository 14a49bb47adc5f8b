"""Which hosts and users are taken, and which would be something else to ssh or to a shell."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.cli.deploy.ssh import RemoteShell, cause_of
from twd.cli.deploy.targets import DeployTarget, targets_of
from twd.kit.errors import CommandError
from twd.settings.model import PoolConfig, Settings, WorkerConfig

WORKERS = (WorkerConfig(host="10.0.0.2", ssh_user="pool", model_dir="/models"), WorkerConfig(host="rig"))
SETTINGS = Settings(pool=PoolConfig(workers=WORKERS))
HOSTILE = [
    "-oProxyCommand=x",
    "--",
    "-",
    "a b",
    "a;b",
    "a'b",
    'a"b',
    "a`b`",
    "$(a)",
    "a\nb",
    "a/b",
    "a|b",
    "",
    "@",
    "é",
]


def test_hosts_of_the_command_line_with_what_the_settings_know_of_them() -> None:
    found = targets_of(SETTINGS, ["rig", "me@10.0.0.2", "10.0.0.2", "[fe80::1%eth0]"], "")
    assert found == [
        DeployTarget("rig"),
        DeployTarget("10.0.0.2", "me", "/models"),
        DeployTarget("10.0.0.2", "pool", "/models"),
        DeployTarget("[fe80::1%eth0]"),
    ]
    assert targets_of(SETTINGS, ["rig"], "admin") == [DeployTarget("rig", "admin")]


def test_without_hosts_the_workers_of_the_pool() -> None:
    assert [one.host for one in targets_of(SETTINGS, [], "")] == ["10.0.0.2", "rig"]
    with pytest.raises(CommandError, match="name a host"):
        targets_of(Settings(), [], "")


@pytest.mark.parametrize("text", HOSTILE)
def test_what_ssh_or_a_shell_would_take_for_something_else_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="is no host"):
        targets_of(Settings(), [text], "")
    with pytest.raises(CommandError, match=r"is no host|is no user"):
        targets_of(Settings(), [f"{text}@rig"], "")
    if text:
        with pytest.raises(CommandError, match="is no user"):
            targets_of(Settings(), ["rig"], text)


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_text_becomes_an_option_of_ssh(host: str, user: str) -> None:
    try:
        (target,) = targets_of(Settings(), [host], user)
    except CommandError:
        return
    argv = RemoteShell(target)._argv("true")
    at = argv.index("--")
    assert argv[at + 1 :][0] == target.host
    assert not target.host.startswith("-")
    assert not target.user.startswith("-")


def test_nothing_is_asked_and_no_key_is_taken_unseen() -> None:
    argv = RemoteShell(DeployTarget("rig", "me"))._argv("true")
    assert "BatchMode=yes" in argv
    assert "StrictHostKeyChecking=yes" in argv
    assert argv[argv.index("-l") + 1] == "me"


@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_every_shell_passes_a_script_on_as_it_is(script: str) -> None:
    command = RemoteShell(DeployTarget("rig"))._argv(script)[-1]
    inner = command.removeprefix("exec sh -c '").removesuffix("'")
    assert not set(inner) & set("'\\!\n"), "these mean something to fish or csh within quotes"


@pytest.mark.parametrize(
    ("told", "cause"),
    [
        ("@@@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @@@\nHost key verification failed.", "another one"),
        ("No ED25519 host key is known for rig\nHost key verification failed.", "compare the fingerprint"),
        ("me@rig: Permission denied (publickey).", "ssh-copy-id"),
        ("ssh: Could not resolve hostname rig", "resolved"),
        ("ssh: connect to host rig port 22: Connection refused", "start one"),
        ("something new", "something new"),
        ("", "ssh said nothing"),
    ],
)
def test_what_ssh_says_becomes_a_cause_with_what_to_do(told: str, cause: str) -> None:
    assert cause in cause_of(told)
