"""Log lines: JSON for programs, plain for people, and secrets for nobody."""

import contextlib
import io
import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.kit import logs
from twd.settings.model import AgentConfig, BusConfig, DrafterConfig, EdgeConfig, LogConfig, Settings


@pytest.fixture(autouse=True)
def _the_root_logger_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def written(log: LogConfig, *secrets: str) -> io.StringIO:
    stream = io.StringIO()
    logs.set_up(log, secrets=secrets, stream=stream, about={"service": "edge"})
    return stream


def test_lines_are_json_where_there_is_no_terminal() -> None:
    stream = written(LogConfig())
    logging.getLogger("twd.edge").info("listening on %s", "127.0.0.1")
    line = json.loads(stream.getvalue())
    assert {key: line[key] for key in ("level", "service", "logger", "text")} == {
        "level": "info",
        "service": "edge",
        "logger": "twd.edge",
        "text": "listening on 127.0.0.1",
    }
    assert line["at"].endswith("+00:00")


def test_a_line_that_a_full_disk_does_not_take_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    with open("/dev/full", "w", encoding="utf-8", buffering=1) as full:
        logs.set_up(LogConfig(), stream=full, about={})
        logging.getLogger("twd.edge").warning("slow")
        assert capsys.readouterr().err == ""
        with contextlib.suppress(OSError):
            full.close()


def test_lines_for_people_are_plain() -> None:
    stream = written(LogConfig(format="human"))
    logging.getLogger("twd.edge").warning("slow")
    assert stream.getvalue().endswith(" warning edge: slow\n")
    assert "\033" not in stream.getvalue()


def test_the_level_is_that_of_the_settings() -> None:
    stream = written(LogConfig(level="error"))
    logging.getLogger("twd.edge").warning("slow")
    assert stream.getvalue() == ""


def test_an_error_keeps_its_story_in_one_line() -> None:
    stream = written(LogConfig())
    try:
        raise ValueError("planted")
    except ValueError:
        logging.getLogger("twd.edge").exception("fault")
    assert len(stream.getvalue().splitlines()) == 1
    assert "ValueError: planted" in json.loads(stream.getvalue())["text"]


@pytest.mark.parametrize("form", ["human", "json"])
def test_secrets_never_appear(form: str) -> None:
    stream = written(LogConfig(format=form), "hunter22", "hunter2")  # type: ignore[arg-type]
    log = logging.getLogger("twd")
    log.info("token hunter22 in %s", {"x": "hunter2"})
    log.info("Authorization: Bearer abc.def and nats://user:pass@host and password=letmein")
    try:
        raise ValueError("hunter22")
    except ValueError:
        log.exception("fault")
    assert not any(secret in stream.getvalue() for secret in ("hunter", "abc.def", "pass@", "letmein"))
    assert "nats://***@host" in stream.getvalue()


@given(st.text(alphabet="abcdef0123456789", min_size=8, max_size=40), st.text(max_size=20), st.text(max_size=20))
def test_a_known_secret_is_masked_wherever_it_stands(secret: str, before: str, after: str) -> None:
    assert secret not in logs.Masker([secret])(f"{before}{secret}{after}")


def test_all_secrets_of_the_settings_are_known() -> None:
    settings = Settings(
        bus=BusConfig(token="t-bus"),
        edge=EdgeConfig(token="t-edge"),
        agent=AgentConfig(token="t-agent"),
        drafters=(DrafterConfig(url="http://x", api_key="t-key"),),
    )
    assert set(logs.secrets_of(settings)) == {"t-bus", "t-edge", "t-agent", "t-key"}
