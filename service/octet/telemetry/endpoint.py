"""The port for Prometheus and for probes, in plain HTTP."""

import asyncio
import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import REGISTRY, CollectorRegistry, make_wsgi_app
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

METRICS_PATH = "/metrics"
HEALTH_PATH = "/health"

_ANSWER_SECONDS = 10.0
"""For the event loop to say how it is; probes give up sooner."""

_MOST_CONNECTIONS = 64
"""At the same time; scrapes and probes take few, for milliseconds."""

_SERVING = "SERVING"


class MetricsEndpoint:
    """Serves metrics and health over HTTP, from threads of its own, from its creation until `close`.

    `HEALTH_PATH` answers what grpc.health.v1's Check would: 200 with SERVING, 503 with any other status, 404
    for a service that there is not (`?service=NAME`; without a name the whole server is meant). The event
    loop is asked each time: one that hangs is a 503, too. `METRICS_PATH` has the metrics. Nothing else is
    there, so that a probe of a path that is misspelt does not find healthy what is not.

    Args:
        registry: the server's metrics. Those of the process follow: what Python and the operating system say
            about it, and vLLM's, which vLLM keeps in the library's default registry.
        health: the status of a service by its name, "" for the server; None for one that there is not. Runs
            in the loop that is running now.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        answer_seconds: how long the loop may take to answer.

    Raises:
        OSError: when the port cannot be had.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        health: Callable[[str], Coroutine[Any, Any, str | None]],
        host: str,
        port: int,
        *,
        answer_seconds: float = _ANSWER_SECONDS,
    ) -> None:
        self._metrics = make_wsgi_app(_Both(registry, REGISTRY))
        self._health = health
        self._loop = asyncio.get_running_loop()
        self._answer_seconds = answer_seconds
        self._server = make_server(host, port, self._answer, _server_for(host, port), _Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.port: int = self._server.server_port

    def close(self) -> None:
        """Closes the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """A request's answer, as WSGI has it."""
        path = environ["PATH_INFO"]
        if path == METRICS_PATH:
            answer: Iterable[bytes] = self._metrics(environ, start_response)
            return answer
        status, text = HTTPStatus.NOT_FOUND, f"there are {METRICS_PATH} and {HEALTH_PATH}"
        if path == HEALTH_PATH:
            (service,) = parse_qs(environ["QUERY_STRING"]).get("service", [""])[-1:]
            status, text = self._ask(service)
        start_response(f"{status.value} {status.phrase}", [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{text}\n".encode()]

    def _ask(self, service: str) -> tuple[HTTPStatus, str]:
        asked = asyncio.run_coroutine_threadsafe(self._health(service), self._loop)
        try:
            said = asked.result(self._answer_seconds)
        except TimeoutError:
            asked.cancel()
            return HTTPStatus.SERVICE_UNAVAILABLE, "the server does not answer"
        if said is None:
            return HTTPStatus.NOT_FOUND, "no such service"
        return HTTPStatus.OK if said == _SERVING else HTTPStatus.SERVICE_UNAVAILABLE, said


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each connection; none of them holds up the end of the process.

    There are no more than `_MOST_CONNECTIONS`, so that nobody takes all of the process's threads and files.
    One more ends the oldest, which whoever opens connections and asks nothing has, and no probe.
    """

    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        self._connections: deque[socket.socket] = deque()
        self._lock = threading.Lock()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answers a connection's request in a thread of its own."""
        with self._lock:
            if len(self._connections) >= _MOST_CONNECTIONS:
                with contextlib.suppress(OSError):
                    self._connections.popleft().shutdown(socket.SHUT_RDWR)
            self._connections.append(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Ends a connection."""
        with self._lock, contextlib.suppress(ValueError):
            self._connections.remove(request)
        super().shutdown_request(request)


class _Handler(WSGIRequestHandler):
    """Says nothing in the log of scrapes and probes, nor of who connects and asks nothing or goes away."""

    timeout = 30

    def handle(self) -> None:
        """Answers a connection's request."""
        with contextlib.suppress(TimeoutError, ConnectionError):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def _server_for(host: str, port: int) -> type[_Server]:
    """The server, for IPv4 or IPv6 as the address is.

    Raises:
        OSError: when there is no such address.
    """
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
    return type("_Server", (_Server,), {"address_family": family})


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
