"""VllmEngine: what an SMG gateway asks of a replica, under the rules that hold for every other call."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from smg_grpc_proto import vllm_engine_pb2, vllm_engine_pb2_grpc
from smg_grpc_proto.generated import common_pb2

from octet.engine.protocol import Engine
from octet.engine.types import ModelInfo
from octet.errors import InvalidRequestError, MethodNotFoundError, UnavailableError
from octet.rpc import call
from octet.rpc.admission.admission import Admission
from octet.rpc.admission.cost import BYTES_PER_TOKEN, Cost
from octet.rpc.admission.ticket import Ticket
from octet.rpc.gate import EngineGate
from octet.rpc.running import CancelledByCallerError, RunningRequests
from octet.rpc.translator import Translator
from octet.rpc.writing import Context, Writer
from octet.telemetry.answers import AnswerMeter
from octet.telemetry.metrics import Metrics
from octet.translate.gateway_events import GatewayEvents
from octet.translate.media import ImageLimits
from octet.translate.media_refs import inline_pictures, refs_memory, refs_to_fetch
from octet.translate.request import MAX_CANCELLED_IDS, check_request_id
from octet.translate.sampling import MAX_CANDIDATES

if TYPE_CHECKING:
    from octet.fetch import ImageFetcher

SERVICE_NAME: str = vllm_engine_pb2.DESCRIPTOR.services_by_name["VllmEngine"].full_name

Servicer: TypeAlias = "vllm_engine_pb2_grpc.VllmEngineServicer"
CreateServicer = Callable[[Engine], Awaitable[Servicer]]
"""Makes what answers over a started engine.

Raises:
    StartupError: when that is not possible.
"""

_ABORTED = vllm_engine_pb2.GenerateResponse(complete=vllm_engine_pb2.GenerateComplete(finish_reason="abort"))

# Fields that would have this process map shared memory, connect to hosts that the caller names, or hand
# tensors to the model that nothing has checked.
_REFUSED_FIELDS: Mapping[str, str] = {
    "mm_inputs": "holds a preprocessed picture; send it as it is, in media_refs",
    "kv_transfer_params": "prompts are not taken over from other replicas",
    "kv_transfer_params_json": "prompts are not taken over from other replicas",
}


class VllmEngineService(vllm_engine_pb2_grpc.VllmEngineServicer):  # type: ignore[misc]
    """Lets a gateway's calls through to another servicer, and keeps them to what every caller may do.

    Methods that no gateway needs to route are unimplemented: embeddings, profiles, and emptying the cache.

    Args:
        gate: closed while the engine takes no calls.
        running: the requests that are being answered.
        admission: lets requests in.
        limits: limits on pictures.
        translator: runs what takes long in threads.
        fetcher: fetches pictures that are elsewhere; None leaves that to nobody.
        write_timeout_seconds: how long a gateway may leave a part of an answer untaken.
        metrics: count what the answers take.
    """

    def __init__(
        self,
        gate: EngineGate,
        running: RunningRequests,
        admission: Admission,
        limits: ImageLimits,
        translator: Translator,
        fetcher: "ImageFetcher | None",
        write_timeout_seconds: float,
        metrics: Metrics,
    ) -> None:
        self._gate = gate
        self._running = running
        self._admission = admission
        self._limits = limits
        self._translator = translator
        self._fetcher = fetcher
        self._write_timeout_seconds = write_timeout_seconds
        self._metrics = metrics
        self._answering: Servicer | None = None
        self._leaving = False

    def attach(self, servicer: Servicer) -> None:
        """Sets what answers; to be called before the gate opens."""
        self._answering = servicer

    def leave(self) -> None:
        """Sends gateways elsewhere from now on, whether or not the gate is open."""
        self._leaving = True

    async def Generate(self, request: vllm_engine_pb2.GenerateRequest, context: Context) -> None:
        """Continues a prompt of tokens."""
        servicer = self._servicer()
        _check(request)
        responses = self._responses(servicer, request, context)
        try:
            async with Writer(self._write_timeout_seconds, context) as writer, aclosing(responses):
                async for response in responses:
                    await writer.write(response)
        except CancelledByCallerError:
            await context.write(_ABORTED)

    async def Abort(
        self, request: vllm_engine_pb2.AbortRequest, context: Context
    ) -> vllm_engine_pb2.AbortResponse:
        """Stops the caller's requests by id; nobody else's."""
        if len(request.request_ids) > MAX_CANCELLED_IDS:
            raise InvalidRequestError(
                "request_ids", f"has {len(request.request_ids)} ids, more than {MAX_CANCELLED_IDS}"
            )
        self._running.cancel(call.caller.get(), request.request_ids)
        return vllm_engine_pb2.AbortResponse()

    async def HealthCheck(
        self, request: vllm_engine_pb2.HealthCheckRequest, context: Context
    ) -> vllm_engine_pb2.HealthCheckResponse:
        """Says whether requests are taken."""
        try:
            self._gate.engine()
        except UnavailableError as error:
            return vllm_engine_pb2.HealthCheckResponse(healthy=False, message=str(error))
        if self._leaving:
            return vllm_engine_pb2.HealthCheckResponse(healthy=False, message="the server is shutting down")
        return vllm_engine_pb2.HealthCheckResponse(healthy=True)

    async def GetModelInfo(
        self, request: vllm_engine_pb2.GetModelInfoRequest, context: Context
    ) -> vllm_engine_pb2.GetModelInfoResponse:
        """Describes the model."""
        return await self._servicer().GetModelInfo(request, context)

    async def GetServerInfo(
        self, request: vllm_engine_pb2.GetServerInfoRequest, context: Context
    ) -> vllm_engine_pb2.GetServerInfoResponse:
        """Describes the replica, and which pictures it takes."""
        info = await self._servicer().GetServerInfo(request, context)
        if info.mm_processor:
            info.mm_media_ref_schemes = "data" if self._fetcher is None else "data,https"
        return info

    async def GetLoads(
        self, request: vllm_engine_pb2.GetLoadsRequest, context: Context
    ) -> vllm_engine_pb2.GetLoadsResponse:
        """Says how much the engine has to do."""
        return await self._servicer().GetLoads(request, context)

    async def GetTokenizer(
        self, request: common_pb2.GetTokenizerRequest, context: Context
    ) -> AsyncGenerator[common_pb2.GetTokenizerChunk, None]:
        """Gives the files that make the tokenizer."""
        servicer = self._servicer()
        await call.accept()
        async with aclosing(servicer.GetTokenizer(request, context)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def SubscribeKvEvents(
        self, request: common_pb2.SubscribeKvEventsRequest, context: Context
    ) -> AsyncGenerator[common_pb2.KvEventBatch, None]:
        """Reports what enters and leaves the prefix cache; needs the engine's --kv-events-config."""
        servicer = self._servicer()
        await call.accept()
        async with aclosing(servicer.SubscribeKvEvents(request, context)) as batches:
            async for batch in batches:
                yield batch

    async def _refuse(self, request: object, context: Context) -> NoReturn:
        raise MethodNotFoundError("this server offers what routing needs")

    Embed = FlushCache = StartProfile = StopProfile = _refuse

    async def _responses(
        self, servicer: Servicer, request: vllm_engine_pb2.GenerateRequest, context: Context
    ) -> AsyncGenerator[vllm_engine_pb2.GenerateResponse, None]:
        """What `servicer` answers to the request, once it is its turn."""
        caller, time_left = call.caller.get(), context.time_remaining()
        model = self._gate.engine().model
        cost = _estimate(request, model, refs_memory(request, model, self._limits))
        with (
            self._running.register(caller, request.request_id, time_left) as running,
            self._admission.enter(
                caller,
                cost,
                time_left=time_left,
                caller_limit=call.caller_limits.get().max_concurrent_requests,
                request_id=call.request_id.get(),
            ) as ticket,
        ):
            await running.wait_for(ticket.turn)
            await call.accept()
            if request.HasField("media_refs"):
                await running.wait_for(self._inline_pictures, request, model, ticket)
            self._admission.images_decoded(ticket)
            async with aclosing(self._generate(servicer, request, context, cost)) as responses:
                while (response := await running.wait_for(_next, responses)) is not None:
                    self._admission.hold_image_memory(ticket, 0)
                    self._admission.first_token(ticket)
                    yield response

    async def _generate(
        self, servicer: Servicer, request: vllm_engine_pb2.GenerateRequest, context: Context, cost: Cost
    ) -> AsyncGenerator[vllm_engine_pb2.GenerateResponse, None]:
        """What `servicer` answers to the request, measured."""
        image_tokens = cost.images * self._gate.engine().model.visual_tokens_per_image
        events = GatewayEvents(streamed=request.stream, image_tokens=image_tokens)
        meter = AnswerMeter(self._metrics, call.caller.get(), call.arrived.get(), candidates=cost.sequences)
        call.answer.set(meter.summary)
        try:
            async with aclosing(servicer.Generate(request, context)) as responses:
                async for response in responses:
                    for event in events.read(response):
                        meter.note(event)
                    yield response
        finally:
            meter.report()

    def _servicer(self) -> Servicer:
        """What answers.

        Raises:
            UnavailableError: while the engine takes no calls.
        """
        self._gate.engine()
        assert self._answering is not None, "attached before the gate opens"
        return self._answering

    async def _inline_pictures(
        self, request: vllm_engine_pb2.GenerateRequest, model: ModelInfo, ticket: Ticket
    ) -> None:
        fetched: Mapping[str, bytes] = {}
        if self._fetcher is not None and (uris := refs_to_fetch(request)):
            fetched = await self._fetcher.fetch_all(uris)
            needed = refs_memory(request, model, self._limits, fetched)
            await self._admission.take_image_memory(ticket, needed)
        inline = partial(inline_pictures, request, model, self._limits, fetched)
        await self._translator.with_decoder(ticket, lambda decode: inline(decode=decode))


def _check(request: vllm_engine_pb2.GenerateRequest) -> None:
    """Refuses what no caller may ask for; gives a request without an id one."""
    if request.request_id:
        check_request_id(request.request_id)
    else:
        request.request_id = call.request_id.get()
    for field, message in _REFUSED_FIELDS.items():
        if request.HasField(field):
            raise InvalidRequestError(field, message)
    if request.extra_mm_inputs:
        raise InvalidRequestError("extra_mm_inputs", _REFUSED_FIELDS["mm_inputs"])
    if request.sampling_params.n > MAX_CANDIDATES:
        raise InvalidRequestError(
            "sampling_params.n", f"is {request.sampling_params.n}, more than the limit of {MAX_CANDIDATES}"
        )


def _estimate(request: vllm_engine_pb2.GenerateRequest, model: ModelInfo, image_bytes: int) -> Cost:
    """What answering a request takes."""
    images = len(request.media_refs.items)
    text = len(request.tokenized.input_ids) or len(request.text) // BYTES_PER_TOKEN
    return Cost(
        sequences=max(request.sampling_params.n, 1),
        tokens=text + images * model.image_cost(None),
        images=images,
        image_bytes=image_bytes,
    )


async def _next(responses: AsyncGenerator[Any, None]) -> Any:
    return await anext(responses, None)
