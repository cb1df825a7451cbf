"""A client that speaks HTTP/2 by hand, and so can break its rules."""

import fcntl
import socket
import struct
import termios
from array import array
from collections.abc import Iterable, Sequence

import h2.config
import h2.connection
from h2.events import (
    DataReceived,
    Event,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.settings import SettingCodes
from hpack import Encoder
from hyperframe.frame import DataFrame, HeadersFrame, RstStreamFrame

from octet.v1 import chat_service_pb2
from tests.integration.conftest import ask

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
STREAM_CHAT = "/octet.v1.ChatService/StreamChat"
CANCEL = 8

CHAT_HEADERS = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", STREAM_CHAT),
    (":authority", "octet.test"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
)


def connect(target: str) -> socket.socket:
    """A TCP connection that has said nothing."""
    host, _, port = target.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def open_connection(target: str, *, room: int = 0) -> socket.socket:
    """A connection that has said hello, and will not say another word by itself.

    Args:
        target: the server's address.
        room: bytes that the server may send beyond the usual window before it is told to go on.
    """
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    if room:
        client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: room})
        client.increment_flow_control_window(room)
    sock = connect(target)
    sock.sendall(client.data_to_send())
    return sock


def chat_frames(
    encoder: Encoder, stream: int, request: chat_service_pb2.ChatRequest | None = None
) -> tuple[bytes, bytes]:
    """The HEADERS and the DATA of a call of StreamChat; DATA of nothing but an end without a request."""
    headers = HeadersFrame(stream, encoder.encode(CHAT_HEADERS), flags=["END_HEADERS"])
    message = b"" if request is None else request.SerializeToString()
    data = DataFrame(stream, struct.pack(">BI", 0, len(message)) + message, flags=["END_STREAM"])
    return headers.serialize(), data.serialize()


def reset(stream: int) -> bytes:
    """RST_STREAM."""
    frame: bytes = RstStreamFrame(stream, CANCEL).serialize()
    return frame


def announced(target: str) -> dict[int, int]:
    """The settings that the server announces."""
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    with connect(target) as sock:
        sock.sendall(client.data_to_send())
        while True:
            for event in client.receive_data(sock.recv(65536)):
                if isinstance(event, RemoteSettingsChanged):
                    return {code: setting.new_value for code, setting in event.changed_settings.items()}


def start_chat(sock: socket.socket, said: str = "one two three") -> None:
    """Calls StreamChat on the connection's first stream."""
    sock.sendall(b"".join(chat_frames(Encoder(), 1, ask(said))))


def unread(sock: socket.socket) -> int:
    """How many bytes have come and wait to be read."""
    count = array("i", [0])
    fcntl.ioctl(sock, termios.FIONREAD, count)
    return count[0]


def read_to_end(sock: socket.socket, seconds: float = 10) -> bytes:
    """What the server says until it closes the connection.

    Raises:
        TimeoutError: when it says nothing for so long and does not close it.
    """
    sock.settimeout(seconds)
    said = b""
    try:
        while piece := sock.recv(65536):
            said += piece
    except ConnectionError:
        pass
    return said


def send_all(sock: socket.socket, pieces: Iterable[bytes]) -> bool:
    """Sends the pieces one by one; False when the server closed the connection before the last."""
    try:
        for piece in pieces:
            sock.sendall(piece)
    except (ConnectionError, TimeoutError):
        return False
    return True


def framed(data: bytes, flag: int = 0) -> bytes:
    """A message as gRPC frames it."""
    return struct.pack(">BI", flag, len(data)) + data


def exchange(target: str, headers: Sequence[tuple[str, str | bytes]], data: bytes) -> dict[str, str]:
    """What the server says to a call by hand: its headers and trailers, or ("reset", code).

    `data` has at most 64 KiB less one byte, as much as HTTP/2 sends without being told to go on.
    """
    settings = h2.config.H2Configuration(
        client_side=True,
        header_encoding=None,
        validate_outbound_headers=False,
        normalize_outbound_headers=False,
    )
    client = h2.connection.H2Connection(settings)
    client.initiate_connection()
    client.send_headers(1, headers)
    frame = client.max_outbound_frame_size
    for start in range(0, max(1, len(data)), frame):
        client.send_data(1, data[start : start + frame], end_stream=start + frame >= len(data))
    said: dict[str, str] = {}
    with connect(target) as sock:
        sock.sendall(client.data_to_send())
        while received := sock.recv(65536):
            events: list[Event] = client.receive_data(received)
            for event in events:
                match event:
                    case ResponseReceived(headers=pairs) | TrailersReceived(headers=pairs):
                        said |= {name.decode(): value.decode() for name, value in pairs}
                    case DataReceived(flow_controlled_length=length):
                        client.acknowledge_received_data(length, 1)
                    case StreamReset(error_code=code):
                        return said | {"reset": str(int(code))}
                    case StreamEnded():
                        return said
            sock.sendall(client.data_to_send())
    return said | {"reset": "closed"}
