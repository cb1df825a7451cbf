"""Names callers by their certificates, on a server that asks for certificates and has no keys."""

from typing import Any

import grpc

from octet.rpc import call
from octet.server.interceptors.handlers import AroundInterceptor, Context, Proceed

# From what says most about a workload to what says least.
_NAMES = ("peer_spiffe_id", "peer_uri", "peer_dns", "x509_common_name", "x509_subject")

_MAX_CHARACTERS = 256


class PeerInterceptor(AroundInterceptor):
    """Makes the name in the client's certificate the caller: SPIFFE id, URI, DNS name or common name."""

    async def around(
        self, details: grpc.HandlerCallDetails, request: Any, context: Context, proceed: Proceed
    ) -> Any:
        """Names the caller."""
        call.caller.set(_peer_name(context))
        return await proceed()


def _peer_name(context: Context) -> str:
    """The name in the certificate; empty over the Unix socket, where there is none."""
    identity = context.auth_context()
    named = (value for name in _NAMES for value in identity.get(name, ()) if value)
    return next(named, b"").decode(errors="replace")[:_MAX_CHARACTERS]
