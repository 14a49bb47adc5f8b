"""Joins an installation from the other side, and leaves it: probes its addresses, asks, and keeps the identity."""

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import msgspec

import twd
from twd.bus.address import BusAddress, Tls
from twd.bus.base import BusError, NoResponders, RequestTimeout
from twd.bus.join import JoinToken
from twd.bus.nats.bus import NatsBus
from twd.bus.seeds import read_or_draw
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.kit.ids import Ids
from twd.kit.messages.reply_decoding import read_answer
from twd.kit.tasks import TaskGroup
from twd.membership.roles import ALL_BUS_ROLES, JOINER, MEMBER
from twd.private_file import write_private
from twd.settings.identity import FILE_NAME, KEYS, Identity
from twd.wire.base import Event, NodeId
from twd.wire.codec import encode
from twd.wire.failures import FailureCode
from twd.wire.node import JoinRequested, LeaveRequested, MembershipAnswered
from twd.wire.routes import subject_of

REACH_S: Final = 10.0
ANSWER_S: Final = 30.0
LET_IN_S: Final = 20.0
AGAIN_S: Final = 0.2
REFUSED_S: Final = 3.0

T = TypeVar("T")


class TokenRefused(CommandError):
    """The broker does not know the token."""


async def join(token: JoinToken, home: Path, node: NodeId) -> Identity:
    """Join under the name `node`, and keep the identity in `home`. Raises CommandError, whose message says why not."""
    with _seed_file(token, home) as file:
        bus, url = await _tried_again(lambda: _reach(token, file), TokenRefused, REFUSED_S)
    try:
        answer = await _ask(bus, _request(token, home, node))
    finally:
        await bus.close()
    identity = Identity(node=node, url=url, fingerprint=token.fingerprint, roles=tuple(answer.roles))
    _keep(home, identity, answer.bus_roles)
    await _tried_again(lambda: check_identity(home, identity), BusError, LET_IN_S)
    return identity


async def check_identity(home: Path, identity: Identity) -> None:
    """Sign in as a member; raises BusError where the broker does not let this machine in."""
    bus = await NatsBus.connect(member_address(home, identity), name=f"{MEMBER}.{identity.node}", wait_s=LET_IN_S)
    await bus.close()


async def leave(home: Path, identity: Identity) -> None:
    """Tell the installation that this machine leaves."""
    bus = await NatsBus.connect(member_address(home, identity), name=f"{MEMBER}.{identity.node}", wait_s=LET_IN_S)
    try:
        await _ask(bus, _stamped(LeaveRequested(node=NodeId(identity.node)), MEMBER, identity.node))
    finally:
        await bus.close()


def forget(home: Path) -> None:
    """Remove the identity and its keys from this machine."""
    (home / FILE_NAME).unlink(missing_ok=True)
    shutil.rmtree(home / KEYS, ignore_errors=True)


def member_address(home: Path, identity: Identity) -> BusAddress:
    """Where and how this machine signs in as a member."""
    key = str(home / KEYS / f"{MEMBER}.nk")
    return BusAddress(identity.url, nkey_file=key, tls=Tls(fingerprint=identity.fingerprint))


# -- the broker --------------------------------------------------------------------------------------


async def _tried_again(attempt: Callable[[], Awaitable[T]], refusal: type[Exception], patience_s: float) -> T:
    """Try again for a while: a broker that reads its list of users may refuse those who are on it."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + patience_s
    while True:
        try:
            return await attempt()
        except refusal:
            if loop.time() >= give_up:
                raise
        await asyncio.sleep(AGAIN_S)


async def _reach(token: JoinToken, seed_file: Path) -> tuple[NatsBus, str]:
    """Connect to the first address where the token's installation answers; all are tried at the same time."""
    urls = [f"tls://{address}" for address in token.addresses]
    tasks = TaskGroup("join", lambda name, error: None)  # errors are raised below
    tries = {tasks.start(url, _connect(url, token, seed_file)): url for url in urls}
    try:
        while waiting := [one for one in tries if not one.done()]:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if any(one.done() and not one.exception() for one in tries):
                break
    finally:
        await tasks.close()
    found = [(one.result(), url) for one, url in tries.items() if not one.cancelled() and not one.exception()]
    for bus, _ in found[1:]:
        await bus.close()
    if not found:
        raise _unreachable([error for one in tries if (error := one.exception()) is not None])
    return found[0]


async def _connect(url: str, token: JoinToken, seed_file: Path) -> NatsBus:
    address = BusAddress(url, nkey_file=str(seed_file), tls=Tls(fingerprint=token.fingerprint))
    return await NatsBus.connect(address, name=f"{JOINER}.{token.id}", wait_s=REACH_S)


def _unreachable(errors: Sequence[BaseException]) -> BaseException:
    """Return what to tell: that the token is refused, if anybody said so, else what each address said."""
    strange = [error for error in errors if not isinstance(error, BusError)]
    if strange:
        return strange[0]
    told = [error for error in errors if isinstance(error, BusError)]
    refused = [error for error in told if "refuses to let us in" in str(error)]
    if refused:
        text = (
            "the installation does not know this token: it was revoked, ended days ago, or is of another installation"
        )
        return TokenRefused(ExitCode.CONFIG, f"{text}; `twd token add` on the broker's machine makes another one")
    code = ExitCode.CONFIG if any(one.code is FailureCode.UNAUTHENTICATED for one in told) else ExitCode.BUS_DOWN
    return CommandError(code, "\n".join(dict.fromkeys(map(str, told))))


async def _ask(bus: NatsBus, event: Event) -> MembershipAnswered:
    try:
        answer = read_answer(await bus.request(subject_of(event), encode(event), timeout_s=ANSWER_S))
    except NoResponders:
        text = "the installation takes nobody in now: its `twd up` is starting or ending; try again in a moment"
        raise CommandError(ExitCode.NOTHING_RUNS, text) from None
    except RequestTimeout:
        text = f"the installation did not answer within {ANSWER_S:g} s; the same command tries again"
        raise CommandError(ExitCode.UNHEALTHY, text) from None
    if not isinstance(answer, MembershipAnswered):
        raise CommandError(ExitCode.UNHEALTHY, f"the installation does not understand this version of twd: {answer}")
    if answer.failure is not None:
        raise CommandError(ExitCode.CONFIG, answer.failure.message)
    return answer


# -- this machine ------------------------------------------------------------------------------------


@contextmanager
def _seed_file(token: JoinToken, home: Path) -> Iterator[Path]:
    """The token's seed in a file, as the connection wants it; gone afterwards."""
    file = home / f".join.{os.getpid()}.nk"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(file, token.seed + b"\n")
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)


def _request(token: JoinToken, home: Path, node: NodeId) -> Event:
    """Draw a key for each role that a token can be for; keys of an unfinished try are taken again."""
    keys = {role: read_or_draw(home / KEYS / f"{role}.nk") for role in ALL_BUS_ROLES}
    return _stamped(JoinRequested(node=node, keys=keys, version=twd.__version__), JOINER, token.id)


def _stamped(event: Event, role: str, machine: str) -> Event:
    ids = Ids()
    return msgspec.structs.replace(event, id=ids.event(), source=ids.instance(role, NodeId(machine)))


def _keep(home: Path, identity: Identity, roles: Sequence[str]) -> None:
    """Keep the seeds of the roles that were given, then the identity: without it, the machine has not joined."""
    for file in (home / KEYS).glob("*.nk"):
        if file.stem not in roles:
            file.unlink()
    write_private(home / FILE_NAME, msgspec.json.format(msgspec.json.encode(identity), indent=2) + b"\n")
