"""What is measured of every call: metrics, a span, and a line in the log."""

import asyncio
import logging
import time
from typing import Any

import grpc
from grpc_health.v1 import health
from opentelemetry.trace import Span, Status, StatusCode

from octet.rpc import call
from octet.server.interceptors.handlers import AroundInterceptor, Context, Proceed
from octet.telemetry.metrics import OTHER_METHOD, Metrics
from octet.telemetry.tracing import Tracing

logger = logging.getLogger("octet")

_PROBES = (
    f"{health.SERVICE_NAME}/",
    "vllm.grpc.engine.VllmEngine/HealthCheck",
    "vllm.grpc.engine.VllmEngine/GetLoads",
    "inference.GRPCInferenceService/ServerLive",
    "inference.GRPCInferenceService/ServerReady",
    "inference.GRPCInferenceService/ModelReady",
)

# The codes that OpenTelemetry's conventions hold to be the server's own failures.
_FAILURES = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}


class CallInterceptor(AroundInterceptor):
    """Measures calls from their arrival to their end.

    Health checks are counted, too, but are neither traced nor logged: there are too many of them.
    """

    def __init__(self, metrics: Metrics, tracing: Tracing) -> None:
        self._metrics = metrics
        self._tracing = tracing

    async def around(
        self, details: grpc.HandlerCallDetails, request: Any, context: Context, proceed: Proceed
    ) -> Any:
        """Counts the call, and traces it unless it is a health check."""
        asked = details.method.removeprefix("/")
        method = asked if call.served.get() else OTHER_METHOD
        if method.startswith(_PROBES):
            return await self._count(method, context, proceed)
        metadata = {name: value for name, value in details.invocation_metadata if isinstance(value, str)}
        with self._tracing.call(method, metadata) as span:
            return await self._count(method, context, proceed, span, asked)

    async def _count(
        self, method: str, context: Context, proceed: Proceed, span: Span | None = None, asked: str = ""
    ) -> Any:
        """Answers the call, and says how it went."""
        arrived = time.monotonic()
        call.arrived.set(arrived)
        in_flight = self._metrics.rpc_in_flight.labels(method)
        in_flight.inc()
        code = "OK"
        try:
            return await proceed()
        except Exception:
            # An abort, whose status gRPC may have failed to send because the client is gone.
            code = context.code().name
            raise
        except asyncio.CancelledError:
            code = _why_cancelled(context)
            raise
        finally:
            seconds = time.monotonic() - arrived
            in_flight.dec()
            labels = (method, code, call.caller.get())
            self._metrics.rpc_requests.labels(*labels).inc()
            self._metrics.rpc_duration.labels(*labels).observe(seconds)
            if span is not None:
                _describe(span, code)
                _log(asked, code, seconds)


def _why_cancelled(context: Context) -> str:
    """gRPC cancels a call's task both when the client gives up and when its deadline passes."""
    left = context.time_remaining()
    return "DEADLINE_EXCEEDED" if left is not None and left <= 0 else "CANCELLED"


def _describe(span: Span, code: str) -> None:
    span.set_attribute("rpc.response.status_code", code)
    if request_id := call.request_id.get():
        span.set_attribute("octet.request_id", request_id)
    if caller := call.caller.get():
        span.set_attribute("octet.key", caller)
    if code in _FAILURES:
        span.set_status(Status(StatusCode.ERROR, code))
    answer = call.answer.get()
    if answer is not None and answer.usage is not None:
        span.set_attribute("gen_ai.usage.input_tokens", answer.usage.prompt_tokens)
        span.set_attribute("gen_ai.usage.output_tokens", answer.usage.completion_tokens)


def _log(method: str, code: str, seconds: float) -> None:
    fields: dict[str, str | int | float] = {"method": method, "code": code, "duration_ms": _ms(seconds)}
    answer = call.answer.get()
    if answer is not None:
        if answer.time_to_first_token is not None:
            fields["time_to_first_token_ms"] = _ms(answer.time_to_first_token)
        if answer.usage is not None:
            fields["prompt_tokens"] = answer.usage.prompt_tokens
            fields["cached_tokens"] = answer.usage.cached_tokens
            fields["image_tokens"] = answer.usage.image_tokens
            fields["generated_tokens"] = answer.usage.completion_tokens
        if answer.tool_calls:
            fields["tool_calls"] = answer.tool_calls
    logger.info("/%s %s %.0f ms", method, code, 1e3 * seconds, extra={"fields": fields})


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 3)
