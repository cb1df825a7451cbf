"""Says with each chat how busy the server is."""

from typing import Any

import grpc

from octet.errors import OctetError, OverloadedError, UnavailableError
from octet.server.interceptors.handlers import Context, Continuation, MaybeHandler, Proceed, wrap
from octet.telemetry.load_report import TRAILER, LoadReporter

_CHATS = ("/octet.v1.ChatService/Chat", "/octet.v1.ChatService/StreamChat")


class LoadReportInterceptor(grpc.aio.ServerInterceptor):
    """Puts a load report into the trailers of chats, whether they are answered or refused."""

    def __init__(self, reporter: LoadReporter) -> None:
        self._reporter = reporter

    async def intercept_service(
        self,
        continuation: Continuation,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> MaybeHandler:
        """Wraps the handler."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method not in _CHATS:
            return handler
        return wrap(handler, self._answer)

    async def _answer(self, request: Any, context: Context, proceed: Proceed) -> Any:
        failed = False
        try:
            return await proceed()
        except Exception as error:
            failed = isinstance(error, OverloadedError | UnavailableError) or not isinstance(
                error, OctetError
            )
            raise
        finally:
            self._reporter.note_end(failed=failed)
            context.set_trailing_metadata(((TRAILER, self._reporter.report()),))
