"""What is known about the call that is being answered, for whoever logs or decides on its behalf.

The interceptors set these; every task that answers a call has its own copy.
"""

from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The call's request id; empty outside of a call."""

caller: ContextVar[str] = ContextVar("caller", default="")
"""Whose call it is: the name of the key that it carried; empty on a server without keys."""
