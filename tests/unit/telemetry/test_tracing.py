import pytest

from octet.errors import StartupError
from octet.telemetry.tracing import Collector, Tracing, find_collector, share_with_engine

TRACES, GENERIC = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.mark.parametrize(
    ("flag", "environment", "endpoint", "protocol"),
    [
        ("http://a:1", {}, "http://a:1", "grpc"),
        ("http://a:1", {TRACES: "http://b:2"}, "http://a:1", "grpc"),
        (None, {TRACES: "http://b:2", GENERIC: "http://c:3"}, "http://b:2", "grpc"),
        (None, {GENERIC: "http://c:3"}, "http://c:3", "grpc"),
        (
            None,
            {GENERIC: "http://c:3/", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
            "http://c:3/v1/traces",
            "http/protobuf",
        ),
        (
            "http://a:1/x",
            {GENERIC: "http://c:3", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"},
            "http://a:1/x",
            "http/protobuf",
        ),
    ],
)
def test_the_flag_comes_first_then_what_is_most_specific(
    flag: str | None, environment: dict[str, str], endpoint: str, protocol: str
) -> None:
    assert find_collector(flag, environment) == Collector(endpoint, protocol)


@pytest.mark.parametrize("switch", [{"OTEL_SDK_DISABLED": "TRUE"}, {"OTEL_TRACES_EXPORTER": "none"}, {}])
def test_traces_are_off(switch: dict[str, str]) -> None:
    flag = "http://a:1" if switch else None
    assert find_collector(flag, switch) is None


def test_an_unknown_protocol_is_one_line() -> None:
    with pytest.raises(StartupError, match="http/json is not supported; set grpc or http/protobuf"):
        find_collector("http://a:1", {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"})


def test_the_engine_is_told_what_it_would_not_find_out() -> None:
    environment: dict[str, str] = {}
    share_with_engine(Collector("http://a:1", "http/protobuf"), environment)
    assert environment == {
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "OTEL_SERVICE_NAME": "octet",
    }
    named = {"OTEL_RESOURCE_ATTRIBUTES": "service.name=chat"}
    share_with_engine(Collector("http://a:1", "grpc"), named)
    assert "OTEL_SERVICE_NAME" not in named


def test_without_a_collector_the_callers_trace_is_known_and_the_engine_hears_nothing() -> None:
    tracing = Tracing(None)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with tracing.call("a.B/C", {"traceparent": parent}) as span:
        assert f"{span.get_span_context().trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
        assert not span.is_recording()
        assert tracing.headers(tracing.part("generate")) == {}
    tracing.close()
