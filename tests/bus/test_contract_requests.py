"""What every bus promises of requests and replies; run for each of them."""

import asyncio
from collections.abc import Callable

import pytest

from tests.bus.conftest import Connect
from tests.bus.ears import Ear, hear_end
from tests.waiting import until
from twd.bus.base import PAYLOAD_BYTES_MAX, Bus, BusError, BusMessage, NoResponders, RequestTimeout
from twd.wire.failures import FailureCode


async def echo_on(bus: Bus, subject: str, queue: str = "") -> None:
    await bus.subscribe(subject, lambda message: bus.publish(message.reply, message.data[::-1]), queue=queue)


async def test_a_request_gets_its_own_answer(connect: Connect) -> None:
    asker, helper = await connect("asker"), await connect("helper")
    await echo_on(helper, "echo", queue="helpers")
    answers = await asyncio.gather(*(asker.request("echo", b"%d!" % i) for i in range(500)))
    assert answers == [(b"%d!" % i)[::-1] for i in range(500)]


async def test_nobody_home_is_known_at_once(connect: Connect) -> None:
    bus = await connect("one")
    with pytest.raises(NoResponders) as nobody:
        await bus.request("nobody", b"", timeout_s=60)
    assert nobody.value.code is FailureCode.NOBODY_HOME


async def test_silence_is_a_timeout(connect: Connect) -> None:
    bus = await connect("one")
    await bus.subscribe("mute", Ear())
    with pytest.raises(RequestTimeout) as late:
        await bus.request("mute", b"", timeout_s=0.1)
    assert late.value.code is FailureCode.DEADLINE


async def test_a_second_answer_and_a_late_one_are_left_aside(connect: Connect) -> None:
    bus = await connect("one")
    asked: list[BusMessage] = []

    def answer_twice(message: BusMessage) -> None:
        asked.append(message)
        bus.publish(message.reply, b"first")
        bus.publish(message.reply, b"second")

    await bus.subscribe("twice", answer_twice)
    assert await bus.request("twice", b"") == b"first"
    assert await bus.request("twice", b"") == b"first"
    bus.publish(asked[0].reply, b"late")
    await hear_end(bus, bus)


async def test_inquiries_are_told_what_became_of_them(connect: Connect) -> None:
    asker, helper = await connect("asker"), await connect("helper")
    await echo_on(helper, "echo", queue="helpers")
    await helper.subscribe("mute", Ear())
    told: dict[str, bytes | BusError] = {}

    def note(name: str) -> Callable[[bytes | BusError], None]:
        def answered(answer: bytes | BusError) -> None:
            assert name not in told, "each is told once"
            told[name] = answer

        return answered

    for number in range(100):
        asker.inquire("echo", b"%d!" % number, note(str(number)))
    asker.inquire("nobody", b"", note("nobody"), timeout_s=60)
    asker.inquire("mute", b"", note("mute"), timeout_s=0.1)
    assert not told, "never before the call has returned"
    await until(lambda: len(told) == 102)
    assert all(told[str(number)] == (b"%d!" % number)[::-1] for number in range(100))
    assert isinstance(told["nobody"], NoResponders)
    assert isinstance(told["mute"], RequestTimeout)
    await hear_end(asker, asker)


async def test_an_inquiry_is_told_one_answer(connect: Connect) -> None:
    bus = await connect("one")
    told: list[bytes | BusError] = []

    def answer_twice(message: BusMessage) -> None:
        bus.publish(message.reply, b"first")
        bus.publish(message.reply, b"second")

    await bus.subscribe("twice", answer_twice)
    bus.inquire("twice", b"", told.append)
    await until(lambda: bool(told))
    await hear_end(bus, bus)
    assert told == [b"first"]


async def test_what_cannot_be_sent_is_no_inquiry(connect: Connect) -> None:
    bus = await connect("one")
    told: list[bytes | BusError] = []
    with pytest.raises(BusError):
        bus.inquire("big", bytes(PAYLOAD_BYTES_MAX + 1), told.append)
    await bus.close()
    with pytest.raises(BusError):
        bus.inquire("a", b"", told.append)
    assert not told


async def test_an_answer_is_never_directed_anywhere_but_to_an_inbox(connect: Connect) -> None:
    bus = await connect("one")
    ear = Ear()
    await bus.subscribe("ask", ear)
    for reply in ("twd.v1.job.finished.j", "_INBOX.one", "$JS.API.STREAM.DELETE.x"):
        bus.publish("ask", b"", reply=reply)
    await hear_end(bus, bus)
    assert [message.reply for message in ear.messages] == ["", "_INBOX.one", ""]
