"""`twd top`: one picture in a pipe, as text or JSON; live in a terminal."""

import io
import json
import os
import pty
import subprocess

import pytest
from rich.console import Console

from tests.cli.running import TWD, Installed
from tests.pools.test_view import busy, ring
from tests.waiting import wait_until
from twd.cli.top import NOBODY, NOTHING, Beside, _print, drawn, headline
from twd.pools.transfers import TransferState

SEEN = """\
m: ring of 2, home desk, ready; 0.0 tokens/s now; 2 sessions; waste 1.50; predicted 20.0 ms a token, measured 21.0: \
1.05 times that
machine  layers        state  ms    planned  queue ms  busy  waste  dropped  link  rtt ms  B/token
n0       0-14          ready  5.00  4.00     0.50      6%    1.50   9        next  20.50   2310
n1       15-29 + head  ready  6.00  4.00     0.50      6%    1.50   9        home  9.00    46
"""


def test_a_pool_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    pools = ring()
    busy(pools)
    _print(pools.states(3.0), Beside(["a drafter"], ["a mixture"]), as_json=False)
    assert capsys.readouterr().out == f"{SEEN}cores: a drafter\nexperts: a mixture\n"
    _print(pools.states(3.0), NOBODY, as_json=True)
    (told,) = json.loads(capsys.readouterr().out)["pools"]
    assert [stage["bytes_per_token"] for stage in told["stages"]] == [2310.0, 46.2]
    _print([], NOBODY, as_json=False)
    assert capsys.readouterr().out == f"{NOTHING}\n"
    _print([], Beside(["a drafter"], ["a mixture"]), as_json=False)
    assert capsys.readouterr().out == "experts: a mixture\n", "a mixture is shown without pools, too"


def test_a_terminal_shows_warnings_and_what_is_not_there_yet() -> None:
    pools = ring()
    (pool,) = pools.states(0.0)
    screen = Console(width=160, record=True, file=io.StringIO())
    screen.print(drawn([pool], "the registry cannot be read"))
    shown = screen.export_text()
    assert "the registry cannot be read" in shown
    assert headline(pool) in shown
    assert " -  " in shown


def test_what_is_fetched_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    one = TransferState(node="shed", file="m.gguf", done_bytes=2**20, total_bytes=2**22, bytes_s=2.0**20, eta_s=3)
    screen = Console(width=160, record=True, file=io.StringIO())
    screen.print(drawn([], beside=Beside(transfers=[one])))
    line = "fetch: shed: m.gguf: 25% of 4 MiB, 1 MiB/s from 0 sources, about 3 s to go"
    assert line in screen.export_text()
    _print([], Beside(transfers=[one]), as_json=False)
    assert capsys.readouterr().out == f"{line}\n"
    _print([], Beside(transfers=[one]), as_json=True)
    assert json.loads(capsys.readouterr().out)["transfers"][0]["node"] == "shed"


@pytest.mark.e2e
@pytest.mark.nats
def test_without_pools_it_says_how_to_see_one(installed: Installed, house: Installed) -> None:
    assert installed.twd("top").returncode == 4
    done = house.twd("top", "--seconds", "0.1")
    assert (done.returncode, done.stdout.strip()) == (0, NOTHING)
    assert json.loads(house.twd("top", "--json", "--seconds", "0").stdout) == {
        "pools": [],
        "cores": [],
        "experts": [],
        "transfers": [],
    }
    ours, theirs = pty.openpty()
    with subprocess.Popen([*TWD, "top"], env={**house.env, "TERM": "xterm"}, stdin=theirs, stdout=theirs) as live:
        os.close(theirs)
        seen = b""

        def draws() -> bool:
            nonlocal seen
            seen += os.read(ours, 4096)
            return b"lies on several machines" in seen

        wait_until(draws, "the live picture")
        live.terminate()
        assert live.wait(30) == 0
    os.close(ours)
