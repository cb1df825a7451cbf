"""What a server and the processes that decode its pictures say to each other.

The server sends LENGTHS of a Plan, pickled with the seconds that it may take, and of a file, and both. The
process says READY once, then for each file PICTURE with its size and orientation and a STRIP after the other,
or REFUSED with a sentence, or MEMORY.
"""

import socket
import struct

LENGTHS = struct.Struct("<2Q")
READY, PICTURE, STRIP, REFUSED, MEMORY = b"A", b"P", b"S", b"X", b"M"


def receive(peer: socket.socket, size: int) -> bytearray:
    """Exactly so many bytes.

    Raises:
        EOFError: the peer is gone.
        TimeoutError: after the socket's time-out.
    """
    data = bytearray(size)
    view = memoryview(data)
    while view:
        received = peer.recv_into(view)
        if not received:
            raise EOFError
        view = view[received:]
    return data
