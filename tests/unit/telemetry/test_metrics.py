from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

import octet
from octet.engine.types import ModelInfo, Quantization
from octet.telemetry.metrics import Metrics


def model(quantization: Quantization | None) -> ModelInfo:
    return ModelInfo(
        names=("main", "alias"),
        source="org/model",
        takes_images=False,
        context_window=1,
        output_token_limit=1,
        quantization=quantization,
        active_kernels=(),
        max_images=0,
        tokens_per_image=0,
        vocabulary_size=1,
    )


def test_two_servers_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.tool_calls.labels("team").inc()
    assert one.registry.get_sample_value("octet_tool_calls_total", {"key": "team"}) == 1
    assert other.registry.get_sample_value("octet_tool_calls_total", {"key": "team"}) is None


def test_every_metric_is_octets_and_has_a_sentence() -> None:
    families = list(text_string_to_metric_families(generate_latest(Metrics().registry).decode()))
    assert len(families) > 15
    for family in families:
        assert family.name.startswith("octet_")
        assert family.documentation.endswith(".")


def test_says_what_runs() -> None:
    metrics = Metrics()
    metrics.describe_model(model(Quantization("FP8_DYNAMIC", "e4m3", "e4m3")))
    value = metrics.registry.get_sample_value
    assert value("octet_build_info", {"version": octet.__version__}) == 1
    labels = {"model": "main", "source": "org/model", "scheme": "FP8_DYNAMIC"}
    assert value("octet_model_info", labels | {"weight_format": "e4m3", "activation_format": "e4m3"}) == 1


def test_a_model_that_is_not_quantized_has_no_formats() -> None:
    metrics = Metrics()
    metrics.describe_model(model(None))
    labels = {
        "model": "main",
        "source": "org/model",
        "scheme": "",
        "weight_format": "",
        "activation_format": "",
    }
    assert metrics.registry.get_sample_value("octet_model_info", labels) == 1
