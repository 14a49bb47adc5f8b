"""A deployed broker, and a way to sign in with any key."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.bus.deployed import Deployment
from tests.bus.permissions.users import Connect, User


@pytest.fixture(scope="package")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, int]]:
    deployment = Deployment(tmp_path_factory.mktemp("deployed"))
    port = deployment.start("nats-server.conf")
    deployment.make_buckets(port)
    yield deployment, port
    deployment.end()


@pytest.fixture
async def connect(deployment: tuple[Deployment, int]) -> AsyncIterator[Connect]:
    files, port = deployment
    users: list[User] = []

    async def connect_one(role: str, node: str = "node1") -> User:
        user = User(role, node)
        user.bus = await files.connect(role, port, user.on_event, node)
        users.append(user)
        return user

    yield connect_one
    for user in users:
        await user.bus.close()
