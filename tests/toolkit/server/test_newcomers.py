"""A port that closes: who has begun to connect is let in, who comes later is refused."""

import socket
import sys
import threading

import pytest

from toolkit.server.newcomers import drop_newcomers


@pytest.mark.skipif(sys.platform != "linux", reason="it is Linux that can")
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_nobody_new_comes_and_nobody_who_came_is_lost(family: socket.AddressFamily) -> None:
    here = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.socket(family) as listener:
        listener.bind((here, 0))
        listener.listen(16)
        address = listener.getsockname()
        early = socket.create_connection(address[:2], 5)
        assert drop_newcomers(listener)
        early.sendall(b"hello")

        refused: list[BaseException] = []

        def come() -> None:
            try:
                socket.create_connection(address[:2], 10).close()
            except OSError as error:
                refused.append(error)

        late = threading.Thread(target=come)
        late.start()
        late.join(0.3)
        assert late.is_alive()  # its wish isn't heard

        taken, _ = listener.accept()
        assert taken.recv(5) == b"hello"
        taken.sendall(b"world")
        assert early.recv(5) == b"world"
        listener.settimeout(0.01)
        with pytest.raises(TimeoutError):
            listener.accept()
    late.join(10)
    assert [type(error) for error in refused] == [ConnectionRefusedError]
    # What is connected goes on.
    taken.sendall(b"again")
    assert early.recv(5) == b"again"
    taken.close()
    early.close()
