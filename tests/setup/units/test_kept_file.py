"""Files with a checksum: what people changed is told from what we wrote."""

import plistlib

from hypothesis import given
from hypothesis import strategies as st

from twd.setup.units.kept_file import changed_by_hand, marked
from twd.setup.units.launchd_job import launchd_job
from twd.setup.units.plan import FULL, UnitPlan

lines = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), max_size=60)


@given(st.lists(lines, min_size=1))
def test_what_we_wrote_is_ours(text: list[str]) -> None:
    assert not changed_by_hand(marked("\n".join(text) + "\n"))


@given(st.lists(lines, min_size=1), lines)
def test_one_more_line_is_a_change(text: list[str], more: str) -> None:
    assert changed_by_hand(marked("\n".join(text) + "\n") + more + "\n")


def test_what_somebody_else_wrote_is_not_ours() -> None:
    assert changed_by_hand("[Service]\nExecStart=/bin/true\n")


def test_a_property_list_stays_one() -> None:
    plan = UnitPlan(
        FULL,
        True,
        "/opt/twd & co/twd",
        ("-c", "/etc/<a>.yaml", "up"),
        ("service", "reload"),
        "/var/lib/twd",
        {"TWD_EDGE_PORT": "9"},
        {"edge.token": "/etc/twd/credentials/edge.token"},
    )
    text = marked(launchd_job(plan, "/var/lib/twd/logs/service.log"))
    assert not changed_by_hand(text)
    assert changed_by_hand(text.replace("RunAtLoad", "RunAtload"))
    job = plistlib.loads(text.encode())
    assert job["ProgramArguments"] == ["/opt/twd & co/twd", "-c", "/etc/<a>.yaml", "up"]
    assert job["EnvironmentVariables"]["CREDENTIALS_DIRECTORY"] == "/etc/twd/credentials"
    assert job["KeepAlive"] == {"SuccessfulExit": False}
    assert job["UserName"] == "twd"
