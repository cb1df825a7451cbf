"""The server's metrics, as Prometheus scrapes them.

Labels take few values: methods are those that are served (`OTHER_METHOD` stands for all else), keys are the
names that the operator gave them, reasons are those of `octet.errors`.
"""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

import octet
from octet.engine.types import ModelInfo

OTHER_METHOD = "other"
"""What calls of methods that are not served are counted under."""

_SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0),
)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)

LOG_LINES_DROPPED = Counter(
    "octet_log_lines_dropped_total", "Log lines that could not be written, to a full disk for example."
)
"""The process has one log, whatever servers it has: it is counted in the library's default registry."""


class Metrics:
    """The metrics of one server, in a registry of their own. Safe to use from all threads.

    Each attribute is a metric; its labels are in the order in which `labels` takes them. `key` is the name of
    the caller's key, and empty on a server without keys.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        self.build = self._gauge("octet_build_info", "1, with the version that runs.", ["version"])
        self.build.labels(octet.__version__).set(1)
        self.model = self._gauge(
            "octet_model_info",
            "1, with the model that is served; formats are empty where it is not quantized.",
            ["model", "source", "scheme", "weight_format", "activation_format"],
        )
        self.serving = self._gauge("octet_serving", "1 while health says SERVING, else 0.")

        self.certificate_expiry = self._gauge(
            "octet_tls_certificate_expiry_timestamp_seconds",
            "When the server's certificate expires, in Unix time.",
            ["file"],
        )
        self.reload_failed = self._gauge(
            "octet_reload_failed",
            "1 while files have changed but cannot be used, and what they held before still is; else 0.",
            ["files"],
        )

        self.rpc_requests = self._counter(
            "octet_rpc_requests_total", "Calls that have ended.", ["method", "code", "key"]
        )
        self.rpc_duration = self._histogram(
            "octet_rpc_duration_seconds",
            "From a call's arrival to its end.",
            _SECONDS,
            ["method", "code", "key"],
        )
        self.rpc_in_flight = self._gauge("octet_rpc_in_flight", "Calls that are being answered.", ["method"])

        self.requests_running = self._gauge(
            "octet_requests_running", "Generation requests that were admitted and have not ended."
        )
        self.requests_waiting = self._gauge(
            "octet_requests_waiting", "Generation requests that wait to be admitted."
        )
        self.demand = self._gauge(
            "octet_demand_ratio",
            "Candidates that run, wait or were refused and are still wanted, by those that the engine "
            "computes at once; a mean in which 30 s ago counts a third.",
        )
        self.tokens_waiting = self._gauge(
            "octet_tokens_waiting", "Tokens of the prompts that wait to be admitted, estimated."
        )
        self.images_waiting = self._gauge(
            "octet_images_waiting", "Pictures that were received and are not decoded yet."
        )
        self.image_memory = self._gauge(
            "octet_image_memory_bytes",
            "Memory given to requests for their pictures, which are decoded or wait for the engine.",
        )
        self.image_memory_waiting = self._gauge(
            "octet_image_memory_waiting_bytes",
            "Memory for pictures that requests which wait to be admitted will need.",
        )
        self.image_memory_limit = self._gauge(
            "octet_image_memory_limit_bytes", "Memory that there is for the pictures of all requests."
        )
        self.queue = self._histogram(
            "octet_queue_seconds", "How long admitted generation requests waited to be admitted.", _SECONDS
        )
        self.rejections = self._counter(
            "octet_rejections_total", "Requests refused before any work, by reason.", ["reason", "key"]
        )

        self.time_to_first_token = self._histogram(
            "octet_time_to_first_token_seconds",
            "From a chat's arrival to the first token of its answer, whether it is streamed or not.",
            _SECONDS,
        )
        self.time_per_output_token = self._histogram(
            "octet_time_per_output_token_seconds",
            "Mean time between the tokens of an answer after the first, one observation an answer.",
            _TOKEN_SECONDS,
        )
        self.prompt_tokens = self._counter(
            "octet_prompt_tokens_total", "Tokens of prompts, cached and image tokens among them.", ["key"]
        )
        self.cached_tokens = self._counter(
            "octet_cached_tokens_total", "Tokens of prompts that the prefix cache held.", ["key"]
        )
        self.image_tokens = self._counter(
            "octet_image_tokens_total", "Tokens of prompts that stand for pictures.", ["key"]
        )
        self.generated_tokens = self._counter(
            "octet_generated_tokens_total", "Tokens of answers, also of those cut short.", ["key"]
        )
        self.candidates = self._counter(
            "octet_candidates_total", "Candidates that were completed, by finish reason.", ["finish_reason"]
        )
        self.tool_calls = self._counter("octet_tool_calls_total", "Tool calls in answers.", ["key"])
        self.adapters = self._gauge("octet_adapters", "LoRA adapters that requests may name.")

    def describe_model(self, model: ModelInfo) -> None:
        """Sets what `octet_model_info` says, and how many adapters there are."""
        quantization = model.quantization
        formats = (
            ("", "", "")
            if quantization is None
            else (quantization.scheme, quantization.weight_format, quantization.activation_format)
        )
        self.model.labels(model.names[0], model.source, *formats).set(1)
        self.adapters.set(len(model.adapters))

    def _counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: Sequence[float], labels: Sequence[str] = ()
    ) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)
