"""Says with each answer how busy the server is."""

from typing import Any

import grpc

from octet.errors import OctetError, OverloadedError, UnavailableError
from octet.server.interceptors.handlers import AroundInterceptor, Context, Proceed
from octet.telemetry.load_report import TRAILER, LoadReporter

_ANSWERS = (
    *("/octet.v1.ChatService/Chat", "/octet.v1.ChatService/StreamChat"),
    *("/octet.v1.CompletionService/Complete", "/octet.v1.CompletionService/StreamComplete"),
    "/octet.v1.EmbeddingService/Embed",
    *(f"/inference.GRPCInferenceService/{method}" for method in ("ModelInfer", "ModelStreamInfer")),
)


class LoadReportInterceptor(AroundInterceptor):
    """Puts a load report into the trailers of what the model is asked, answered or refused."""

    def __init__(self, reporter: LoadReporter) -> None:
        self._reporter = reporter

    def concerns(self, method: str) -> bool:
        """Only what the model answers: what else there is says nothing of the load."""
        return method in _ANSWERS

    async def around(
        self, details: grpc.HandlerCallDetails, request: Any, context: Context, proceed: Proceed
    ) -> Any:
        """Adds the report, whatever becomes of the call."""
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
