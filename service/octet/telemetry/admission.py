"""What is counted of admission."""

from octet.rpc.admission.admission import Admission
from octet.telemetry.metrics import Metrics


class AdmissionMetrics:
    """Reports what a server's admission does, from its creation on."""

    def __init__(self, metrics: Metrics, admission: Admission) -> None:
        self._metrics = metrics
        metrics.requests_running.set_function(lambda: admission.load().running)
        metrics.requests_waiting.set_function(lambda: admission.load().waiting)
        metrics.demand.set_function(admission.demand)
        metrics.tokens_waiting.set_function(lambda: admission.load().waiting_tokens)
        metrics.images_waiting.set_function(lambda: admission.load().waiting_images)
        metrics.image_memory.set_function(lambda: admission.load().image_bytes)
        metrics.image_memory_waiting.set_function(lambda: admission.load().waiting_image_bytes)
        admission.subscribe(self)

    def admitted(self, caller: str, queue_seconds: float) -> None:
        """A request goes to the engine."""
        self._metrics.queue.observe(queue_seconds)

    def refused(self, caller: str, reason: str) -> None:
        """A call is refused."""
        self._metrics.rejections.labels(reason, caller).inc()
