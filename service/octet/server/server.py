"""A server in this process: its services, and the states it goes through."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING

from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from octet.config import ServerConfig
from octet.engine.protocol import Engine
from octet.engine.types import Service
from octet.errors import EngineDeadError, StartupError, UnavailableError
from octet.rpc.admin import AdminService
from octet.rpc.admission.admission import Admission
from octet.rpc.admission.limits import limits_of
from octet.rpc.answering import Answering
from octet.rpc.chat import ChatService
from octet.rpc.completion import CompletionService
from octet.rpc.decoders import Decoders
from octet.rpc.embedding import EmbeddingService
from octet.rpc.fair_threads import FairThreads
from octet.rpc.gate import EngineGate
from octet.rpc.model import ModelService
from octet.rpc.reading import RequestReader
from octet.rpc.running import RunningRequests
from octet.rpc.translator import Translator
from octet.server.health import HealthServicer
from octet.server.interceptors import interceptors
from octet.server.interceptors.errors import to_status
from octet.server.keys import KeyRing, load_admin_keys, load_keys
from octet.server.listener import addresses, explain_bind_error, listen, make_server
from octet.server.reflection import add_reflection
from octet.server.reload import Reloader
from octet.server.tls import ServerTls
from octet.server.warmup import warm_up
from octet.telemetry.admission import AdmissionMetrics
from octet.telemetry.endpoint import MetricsEndpoint
from octet.telemetry.load_report import LoadReporter
from octet.telemetry.metrics import Metrics
from octet.telemetry.tracing import Tracing, find_collector
from octet.translate import request_limits
from octet.translate.media import ImageLimits
from octet.translate.model import SERVICE_NAMES
from octet.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    chat_service_pb2_grpc,
    completion_service_pb2_grpc,
    embedding_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
)

if TYPE_CHECKING:
    from octet.fetch import ImageFetcher
    from octet.rpc.kserve import InferenceService
    from octet.rpc.vllm_engine import CreateServicer, VllmEngineService

logger = logging.getLogger("octet")

HEALTH_POLL_SECONDS = 0.5
"""How often the engine is asked whether it lives."""

STOP_GRACE_SECONDS = 0.5
"""What remains for responses on their way, and for health watchers, when the server stops."""

_THREADS = 3
"""For what is costly beside pictures: large requests and schemas, many log probabilities."""

KSERVE_NAME = "inference.GRPCInferenceService"
"""The service that is there with config.kserve."""

OWN_SERVICES: tuple[str, ...] = (
    *SERVICE_NAMES.values(),
    model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
)


class Server:
    """Serves an engine over gRPC: `start`, `attach`, then `retire`, `drain` and `stop`.

    Until `attach` has returned and from `drain` on, calls end UNAVAILABLE. Health says SERVING between
    `attach` and `retire`, else NOT_SERVING; of services that the model is not for it says NOT_SERVING always.
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        fetcher: "ImageFetcher | None" = None,
        create_servicer: "CreateServicer | None" = None,
    ) -> None:
        """Listens to nobody yet.

        Args:
            config: the server's settings.
            fetcher: takes the place of the one that the config describes.
            create_servicer: makes what answers SMG gateways over the engine, with config.smg.

        Raises:
            StartupError: when the keys or the certificates cannot be read, or a package is missing.
        """
        limits = ImageLimits(
            max_bytes=config.max_image_bytes,
            max_pixels=config.max_image_pixels,
            max_memory=config.image_memory.request,
        )
        self._config = config
        self.metrics = Metrics()
        """What is counted and measured."""
        self._gate = EngineGate()
        self._running = RunningRequests()
        self.admission = Admission()
        """Lets calls in; tells its listeners."""
        self._decoders = Decoders(config.image_threads, config.image_decode_seconds)
        self._threads = FairThreads(_THREADS, "translate")
        self._fetcher = fetcher or _make_fetcher(config)
        self._reader = RequestReader(self._threads)
        translator = Translator(limits, self.admission, self._decoders, self._threads, self._fetcher)
        self._health = HealthServicer()
        self._reloader = Reloader(lambda files, failed: self.metrics.reload_failed.labels(files).set(failed))
        self._reloading: asyncio.Task[None] | None = None
        self._tls = self._load_tls()
        self._load_reporter = LoadReporter(self.admission.load)
        self._tracing = Tracing(find_collector(config.otlp_traces_endpoint, os.environ))
        self._server = make_server(
            config,
            interceptors(
                self._reader,
                self._load_keys(),
                self.metrics,
                self._tracing,
                self._load_reporter if config.load_reports else None,
                admin_keys=self._load_admin_keys(),
                name_peers=config.tls_client_ca is not None,
            ),
        )
        AdmissionMetrics(self.metrics, self.admission)
        self.metrics.image_memory_limit.set(config.image_memory.server)
        answering = Answering(self._running, self.admission, self.metrics, self._tracing, config.log_prompts)
        answers = (self._gate, self._running, answering, translator)
        write_timeout = config.write_timeout_seconds
        chat_service_pb2_grpc.add_ChatServiceServicer_to_server(
            ChatService(*answers, write_timeout), self._server
        )
        completion_service_pb2_grpc.add_CompletionServiceServicer_to_server(
            CompletionService(*answers, write_timeout), self._server
        )
        embedding_service_pb2_grpc.add_EmbeddingServiceServicer_to_server(
            EmbeddingService(*answers), self._server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            ModelService(self._gate, self._running, self.admission, limits, translator), self._server
        )
        self._service_names = OWN_SERVICES
        if config.adapter_root is not None:
            self._add_admin(config.adapter_root)
        self._create_servicer = create_servicer
        self._vllm_engine = self._add_vllm_engine(limits, translator) if config.smg else None
        self._inference = self._add_inference(answering, translator) if config.kserve else None
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        beside = [health.SERVICE_NAME]
        if config.channelz:
            from grpc_channelz.v1 import channelz, channelz_pb2

            channelz.add_channelz_servicer(self._server)
            beside.append(channelz_pb2.DESCRIPTOR.services_by_name["Channelz"].full_name)
        if config.reflection:
            add_reflection(self._server, (*self._service_names, *beside))
        self.port = 0
        """The TCP port, once `start` has returned; 0 where there is none."""
        self.metrics_port = 0
        """The port for Prometheus and probes, once `start` has returned; 0 where none is open."""
        self._endpoint: MetricsEndpoint | None = None

    @property
    def addresses(self) -> str:
        """Where clients reach the server, for the log."""
        return addresses(self._config, self.port)

    async def start(self) -> None:
        """Listens; health says NOT_SERVING.

        Raises:
            StartupError: when a port or the Unix socket cannot be had.
        """
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        credentials = None if self._tls is None else self._tls.credentials()
        self.port = listen(self._server, self._config, credentials)
        self._start_endpoint()
        await self._server.start()
        self._reloading = asyncio.ensure_future(self._reloader.run())

    async def attach(self, engine: Engine) -> None:
        """Warms the engine up, then opens for calls; health says SERVING.

        Raises:
            StartupError: when the model cannot answer the warm-up request.
        """
        self.metrics.describe_model(engine.model)
        await warm_up(engine)
        if self._vllm_engine is not None:
            assert self._create_servicer is not None, "config.smg needs create_servicer"
            self._vllm_engine.attach(await self._create_servicer(engine))
        self._reader.open(request_limits.limits_of(engine.model))
        self.admission.open(limits_of(self._config, engine.model))
        self._load_reporter.attach(engine)
        self._gate.open(engine)
        unserved = {SERVICE_NAMES[service] for service in Service} - {
            SERVICE_NAMES[service] for service in engine.model.services
        }
        if Service.COMPLETION not in engine.model.services:
            unserved.add(KSERVE_NAME)
        await self._set_health(health_pb2.HealthCheckResponse.SERVING, but_for=unserved)

    async def watch(self, engine: Engine) -> EngineDeadError:
        """Returns when the engine has died; health says NOT_SERVING and nothing is let through any more."""
        while True:
            try:
                await engine.check_health()
            except EngineDeadError as error:
                await self._not_serving()
                self._gate.close(error)
                self._running.stop_all(error)
                return error
            await asyncio.sleep(HEALTH_POLL_SECONDS)

    async def retire(self) -> None:
        """Says NOT_SERVING, and takes calls all the same for the configured time: balancers notice."""
        await self._not_serving()
        await asyncio.sleep(self._config.grace_seconds)

    async def drain(self) -> None:
        """Refuses new calls, says NOT_SERVING, and waits for the running ones, up to the configured time."""
        await self._not_serving()
        self._gate.close(UnavailableError("the server is shutting down"))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._running.wait_idle(), self._config.drain_seconds)

    async def stop(self) -> None:
        """Ends what is still running with UNAVAILABLE and closes the port. Idempotent."""
        await self._not_serving()
        error = UnavailableError("the server is shutting down")
        self._gate.close(error)
        self._running.stop_all(error)
        if self._reloading is not None:
            self._reloading.cancel()
        await self._server.stop(STOP_GRACE_SECONDS)
        self._decoders.close()
        self._threads.close()
        if self._fetcher is not None:
            await self._fetcher.close()
        await asyncio.to_thread(self._tracing.close)
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None:
            await asyncio.to_thread(endpoint.close)

    def _start_endpoint(self) -> None:
        host, port = self._config.metrics_host.strip("[]"), self._config.metrics_port
        if port is None:
            return
        try:
            self._endpoint = MetricsEndpoint(self.metrics.registry, self._health.status, host, port)
        except OSError as error:
            raise StartupError(explain_bind_error(error, host, port, flags="metrics-")) from None
        self.metrics_port = self._endpoint.port
        logger.info("metrics on http://%s:%d/metrics", self._config.metrics_host, self.metrics_port)

    def _load_tls(self) -> ServerTls | None:
        """The certificates, which follow their files; None for plain text."""
        config = self._config
        if config.tls_certificate is None or config.tls_key is None:
            return None
        tls = ServerTls(config.tls_certificate, config.tls_key, config.tls_client_ca)
        expiry = self.metrics.certificate_expiry.labels(config.tls_certificate)

        def load() -> None:
            expiry.set(tls.load().timestamp())

        self._reloader.load("TLS certificates", tls.paths, load)
        return tls

    def _load_keys(self) -> KeyRing | None:
        """The API keys, which follow their file; None where every call is let in."""
        if not self._config.has_keys:
            return None
        keys = KeyRing(partial(load_keys, self._config))
        file = self._config.api_keys_file
        self._reloader.load("API keys", [] if file is None else [file], keys.load)
        return keys

    def _load_admin_keys(self) -> KeyRing | None:
        """The keys of AdminService, which follow their file; None where there is no such service."""
        file = self._config.admin_keys_file
        if file is None:
            return None
        keys = KeyRing(partial(load_admin_keys, file))
        self._reloader.load("admin keys", [file], keys.load)
        return keys

    async def _not_serving(self) -> None:
        """Says NOT_SERVING from now on, whatever else is set."""
        if self._vllm_engine is not None:
            self._vllm_engine.leave()
        if self._inference is not None:
            self._inference.leave()
        await self._health.enter_graceful_shutdown()
        self.metrics.serving.set(0)

    def _add_admin(self, root: str) -> None:
        """Adds the service that loads and drops adapters."""
        service = AdminService(self._gate, root, self.metrics)
        admin_service_pb2_grpc.add_AdminServiceServicer_to_server(service, self._server)
        self._service_names += (admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name,)

    def _add_vllm_engine(self, limits: ImageLimits, translator: Translator) -> "VllmEngineService":
        """Adds the service that SMG gateways ask."""
        try:
            from smg_grpc_proto import vllm_engine_pb2_grpc

            from octet.rpc.vllm_engine import SERVICE_NAME, VllmEngineService
        except ImportError as error:
            raise StartupError(f"--smg: {error}; install octet-serve[smg]") from error
        service = VllmEngineService(
            self._gate,
            self._running,
            self.admission,
            limits,
            translator,
            self._fetcher,
            self._config.write_timeout_seconds,
            self.metrics,
        )
        vllm_engine_pb2_grpc.add_VllmEngineServicer_to_server(service, self._server)
        self._service_names += (SERVICE_NAME,)
        return service

    def _add_inference(self, answering: Answering, translator: Translator) -> "InferenceService":
        """Adds the service that KServe's and Triton's clients ask."""
        from octet.kserve import grpc_service_pb2_grpc
        from octet.rpc.kserve import InferenceService

        service = InferenceService(
            self._gate, answering, translator, self._config.write_timeout_seconds, to_status
        )
        grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(service, self._server)
        self._service_names += (KSERVE_NAME,)
        return service

    async def _set_health(
        self, status: health_pb2.HealthCheckResponse.ServingStatus, *, but_for: Collection[str] = ()
    ) -> None:
        for name in ("", *self._service_names):
            if name not in but_for:
                await self._health.set(name, status)
        self.metrics.serving.set(status == health_pb2.HealthCheckResponse.SERVING)


def _make_fetcher(config: ServerConfig) -> "ImageFetcher | None":
    """What fetches pictures by https: URI; None where it is not switched on."""
    if not config.image_hosts:
        return None
    from octet.fetch import ImageFetcher

    return ImageFetcher(
        config.image_hosts,
        max_bytes=config.max_image_bytes,
        max_request_bytes=config.max_message_bytes,
        seconds=config.image_fetch_seconds,
    )
