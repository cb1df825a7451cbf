"""What `engine_alone` is asked and answers, as lines; both come from processes of this program's own."""

import base64
import pickle
from typing import Any


def packed(value: Any) -> bytes:
    """A value as a line."""
    return base64.b64encode(pickle.dumps(value)) + b"\n"


def unpacked(line: bytes) -> Any:
    """The value of a line."""
    return pickle.loads(base64.b64decode(line))
