"""The port that Prometheus scrapes."""

from collections.abc import Iterable

from prometheus_client import REGISTRY, CollectorRegistry, start_http_server
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class MetricsEndpoint:
    """Serves metrics over HTTP, from threads of its own, from its creation until `close`.

    Args:
        registry: the server's metrics. Those of the process follow: what Python and the operating system say
            about it, and vLLM's, which vLLM keeps in the library's default registry.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.

    Raises:
        OSError: when the port cannot be had.
    """

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        self._server, self._thread = start_http_server(port, host, _Both(registry, REGISTRY))
        self.port: int = self._server.server_port

    def close(self) -> None:
        """Closes the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Both(CollectorRegistry):
    """Shows several registries as one."""

    def __init__(self, *registries: CollectorRegistry) -> None:
        super().__init__()
        for registry in registries:
            self.register(_Part(registry))


class _Part(Collector):
    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        return self._registry.collect()

    def describe(self) -> Iterable[Metric]:
        """Nothing: the names are the registry's own, and more may come."""
        return ()
