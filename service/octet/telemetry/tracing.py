"""Traces of calls, by OpenTelemetry."""

import os
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentelemetry import propagate, trace
from opentelemetry.trace import NoOpTracer, Span, SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import octet
from octet.errors import StartupError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

_GRPC = "grpc"
_HTTP = "http/protobuf"
_NAME = "octet"

_W3C = TraceContextTextMapPropagator()


@dataclass(frozen=True, slots=True)
class Collector:
    """Where traces are sent: `protocol` is "grpc" or "http/protobuf", as OpenTelemetry names them."""

    endpoint: str
    protocol: str


def find_collector(flag: str | None, environment: Mapping[str, str]) -> Collector | None:
    """The collector that the flag names, or OpenTelemetry's standard variables; None where traces are off.

    Raises:
        StartupError: for a protocol that there is no exporter for.
    """
    if _is_off(environment):
        return None
    protocol = (
        environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
        or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        or _GRPC
    )
    base = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if base and protocol == _HTTP:
        base = f"{base.rstrip('/')}/v1/traces"
    endpoint = flag or environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or base
    if not endpoint:
        return None
    if protocol not in (_GRPC, _HTTP):
        raise StartupError(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol} is not supported; set {_GRPC} or {_HTTP}")
    return Collector(endpoint, protocol)


def share_with_engine(collector: Collector, environment: MutableMapping[str, str]) -> None:
    """Sets the variables by which vLLM, in this process and its own, sends to the same collector."""
    environment["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] = collector.protocol
    if "service.name=" not in environment.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        environment.setdefault("OTEL_SERVICE_NAME", _NAME)


class Tracing:
    """Makes the spans of one server's calls.

    Without a collector spans are not recorded, but a caller's trace id is still known to the log.

    Args:
        collector: where spans are sent, in batches, by a thread.
    """

    def __init__(self, collector: Collector | None) -> None:
        self._provider = None if collector is None else _make_provider(collector)
        self.tracer: Tracer = (
            NoOpTracer() if self._provider is None else self._provider.get_tracer(_NAME, octet.__version__)
        )

    @contextmanager
    def call(self, method: str, metadata: Mapping[str, str]) -> Iterator[Span]:
        """The span of a call, current while the context lasts; the metadata's trace context is its parent."""
        span = self.tracer.start_span(
            method,
            context=propagate.extract(metadata),
            kind=SpanKind.SERVER,
            attributes={"rpc.system.name": "grpc", "rpc.method": method},
        )
        # The call's end is reported as a status code, not as the exception by which it came about.
        with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            yield span

    def part(self, name: str) -> Span:
        """The span of a part of the current call; it ends with the context that it is used as."""
        return self.tracer.start_span(name, record_exception=False, set_status_on_exception=False)

    def headers(self, span: Span) -> Mapping[str, str]:
        """W3C trace context that makes `span` the parent of the engine's own; empty without a collector."""
        if self._provider is None:
            return {}
        headers: dict[str, str] = {}
        _W3C.inject(headers, trace.set_span_in_context(span))
        return headers

    def close(self) -> None:
        """Sends what has not been sent, which blocks for seconds when the collector does not answer."""
        if self._provider is not None:
            self._provider.shutdown()


def _is_off(environment: Mapping[str, str]) -> bool:
    disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return disabled or environment.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"


def _make_provider(collector: Collector) -> "TracerProvider":
    """The SDK reads the standard variables itself: sampler, resource, batches, headers, certificates."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    share_with_engine(collector, os.environ)
    resource = Resource.create({"service.version": octet.__version__})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_make_exporter(collector)))
    return provider


def _make_exporter(collector: Collector) -> "SpanExporter":
    if collector.protocol == _HTTP:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

        return HttpExporter(endpoint=collector.endpoint)
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

    # An endpoint without a scheme is plain text, as it is to vLLM; https is TLS whatever this says.
    return GrpcExporter(endpoint=collector.endpoint, insecure=True)
