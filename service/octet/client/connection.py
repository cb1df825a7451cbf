"""What both clients tell gRPC."""

from octet import __version__

DEFAULT_TARGET = "127.0.0.1:50051"

CHAT_TIMEOUT = 600.0
"""Seconds that a chat may take unless told otherwise."""

QUICK_TIMEOUT = 10.0
"""Seconds that every other call may take."""

MAX_MESSAGE_BYTES = 64 * 1024 * 1024

CHANNEL_OPTIONS = (
    ("grpc.primary_user_agent", f"octet-client/{__version__}"),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A server that vanished in the middle of a long silent answer is noticed within a minute.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)


def metadata(api_key: str | None) -> tuple[tuple[str, str], ...]:
    """What is sent along with each call."""
    return () if api_key is None else (("authorization", f"Bearer {api_key}"),)
