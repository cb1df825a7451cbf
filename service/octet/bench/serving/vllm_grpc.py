"""Speaks `vllm.grpc.engine.VllmEngine`: vLLM's own gRPC server, workers of SMG gateways. In token ids."""

import uuid
from collections.abc import AsyncGenerator
from itertools import cycle
from typing import Any

import grpc
from smg_grpc_proto import vllm_engine_pb2, vllm_engine_pb2_grpc

from octet.bench.serving.octet_grpc import channels, failure_of
from octet.bench.serving.orders import Kind, Order
from octet.bench.serving.target import CUT_OFF, HIDDEN, Failure, Form, Piece, Usage
from octet.client.connection import QUICK_TIMEOUT, Tls, metadata


def inner_tokens(vocabulary: int) -> range:
    """Ids that stand for text: special tokens are at either end of vocabularies."""
    return range(vocabulary // 8, max(vocabulary // 8 + 1, vocabulary * 7 // 8))


class VllmTarget:
    """A server of VllmEngine; the arguments are OctetTarget's."""

    kinds = frozenset({Kind.TEXT})
    takes_tokens = True

    def __init__(
        self,
        target: str,
        *,
        api_key: str | None = None,
        tls: Tls | None = None,
        timeout: float,
        connections: int = 1,
    ) -> None:
        self.title = f"VllmEngine at {target}"
        self._channels = channels(target, tls, connections)
        stubs: list[Any] = [vllm_engine_pb2_grpc.VllmEngineStub(channel) for channel in self._channels]
        self._stubs = cycle(stubs)
        self._metadata = metadata(api_key)
        self._timeout = timeout
        self._ids = range(0)

    async def open(self) -> None:
        """Asks for the size of the vocabulary.

        Raises:
            Failure: nobody answers.
        """
        request = vllm_engine_pb2.GetModelInfoRequest()
        try:
            info = await next(self._stubs).GetModelInfo(
                request, timeout=QUICK_TIMEOUT, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as error:
            raise failure_of(error) from None
        self._ids = inner_tokens(info.vocab_size)

    def prepare(self, order: Order, form: Form) -> Any:
        """The request for an order."""
        ids = form.chance(order).choices(self._ids, k=order.prompt_tokens)
        return vllm_engine_pb2.GenerateRequest(
            request_id=uuid.uuid4().hex,
            tokenized=vllm_engine_pb2.TokenizedInput(input_ids=ids),
            sampling_params=vllm_engine_pb2.SamplingParams(
                temperature=form.temperature,
                top_p=1.0,
                repetition_penalty=1.0,
                max_tokens=order.answer_tokens,
                ignore_eos=not form.may_end,
                n=1,
            ),
            stream=True,
        )

    async def stream(self, request: Any) -> AsyncGenerator[Piece | Usage, None]:
        """Sends a request, and gives what comes."""
        call = next(self._stubs).Generate(request, timeout=self._timeout, metadata=self._metadata)
        end = None
        tokens = 0
        try:
            while (response := await call.read()) is not grpc.aio.EOF:
                if response.HasField("complete"):
                    end = response.complete
                elif response.chunk.token_ids:
                    tokens += len(response.chunk.token_ids)
                    yield HIDDEN
        except grpc.aio.AioRpcError as error:
            raise failure_of(error) from None
        finally:
            call.cancel()
        if end is None:
            raise Failure(CUT_OFF, "the stream ended without its last message")
        if end.finish_reason in ("abort", "error"):
            raise Failure("CANCELLED", f"the answer ended with {end.finish_reason!r}")
        # The last message of a stream counts the tokens of the last chunk, not those of the answer.
        yield Usage(end.prompt_tokens, tokens)

    async def close(self) -> None:
        """Ends every connection."""
        for channel in self._channels:
            await channel.close()
