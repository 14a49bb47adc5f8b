"""What the kernel tells of this process's connections."""

import socket

from tests.tcp import linux_only
from tests.waiting import wait_until
from twd.net.tcp_info import count_links


@linux_only
def test_a_connection_that_the_other_end_closed_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        with socket.create_connection(address) as client:
            other, _ = server.accept()
            client.sendall(b"abc")
            wait_until(lambda: count_links({address})[address].sent >= 3, "it is counted")
            assert not count_links({address})[address].hung_up
            other.close()
            wait_until(lambda: address not in (found := count_links({address})) or found[address].hung_up, "it is told")
