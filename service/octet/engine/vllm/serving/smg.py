"""What answers an SMG gateway: smg-grpc-servicer over the running engine.

The gateway tokenizes, applies the model's chat template and parses tool calls itself; what comes here is
token ids, with pictures as data: URIs, which vLLM's own processor expands.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from smg_grpc_servicer.tokenizer_bundle import tokenizer_bundle, tokenizer_chunks
from smg_grpc_servicer.vllm.mm_processor import MmSettings
from smg_grpc_servicer.vllm.servicer import VllmEngineServicer
from vllm.exceptions import VLLMClientError

from octet.engine.vllm import compat
from octet.engine.vllm.launch.args import one_line
from octet.engine.vllm.serving.engine import VllmEngine
from octet.errors import InvalidRequestError, StartupError

_ENCODED_ANEW_BYTES = 2**28
"""Longest picture that Octet itself has encoded; what came from a gateway was measured before."""


class Servicer(VllmEngineServicer):  # type: ignore[misc]
    """The package's servicer, which also finds the tokenizer of a model that came from a hub.

    Attributes:
        picture_token: what stands for a picture in prompts; None where it is more than one token.
    """

    picture_token: int | None = None

    _mm_processor: Any

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        if self._mm_processor is not None:
            self._mm_processor = PictureProcessor(self._mm_processor)

    async def Generate(self, request: Any, context: Any) -> AsyncGenerator[Any, None]:
        """Continues a prompt of tokens.

        Raises:
            InvalidRequestError: its pictures are not as many as the prompt has places for them.
        """
        self._check_places(request)
        # vLLM asks on the event loop, where the answer is known then.
        with contextlib.suppress(ValueError, VLLMClientError):
            params = self._sampling_params_from_proto(request.sampling_params)
            await asyncio.to_thread(compat.constraints.check_those_of, params)
        async with aclosing(super().Generate(request, context)) as responses:
            async for response in responses:
                yield response

    def _check_places(self, request: Any) -> None:
        """A gateway takes the name of the token in a text for the token; each picture would move up to it."""
        pictures = len(request.media_refs.items)
        if not pictures or self.picture_token is None:
            return
        places = list(request.tokenized.input_ids).count(self.picture_token)
        if places != pictures:
            raise InvalidRequestError(
                "media_refs", f"holds {pictures} pictures, and the prompt has places for {places}"
            )

    async def GetTokenizer(self, request: Any, context: Any) -> AsyncGenerator[Any, None]:
        """Gives the files that make the tokenizer as an archive, in pieces."""
        files = await asyncio.to_thread(_tokenizer_directory, self.engine.model_config)
        for chunk in tokenizer_chunks(*await tokenizer_bundle(files)):
            yield chunk


class PictureProcessor:
    """The package's processor of pictures, which blames prompts without a place for each."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    async def process(self, *arguments: Any, **options: Any) -> Any:
        """The prompt with its pictures.

        Raises:
            ValueError: what the package ends INVALID_ARGUMENT.
        """
        try:
            return await self._processor.process(*arguments, **options)
        except AssertionError as error:
            # vLLM 0.32 has no other way to say so.
            raise ValueError(f"media_refs: the prompt has no place for each picture: {error}") from error


async def create_servicer(
    engine: VllmEngine, *, max_image_bytes: int, image_threads: int
) -> VllmEngineServicer:
    """Makes the servicer over a started engine.

    Args:
        engine: the engine.
        max_image_bytes: longest encoded picture taken.
        image_threads: requests whose pictures are processed at the same time.

    Raises:
        StartupError: when the installed packages or SMG_VLLM_* variables do not allow it.
    """
    settings = MmSettings(
        # This is what makes a gateway send pictures at all.
        processor="inprocess" if engine.model.takes_images else "off",
        max_inflight=image_threads,
        max_item_bytes=max(max_image_bytes, _ENCODED_ANEW_BYTES),
    )
    # Every call has its line in the log already.
    logging.getLogger("smg_grpc_servicer").setLevel(logging.WARNING)
    try:
        servicer = await asyncio.to_thread(Servicer, engine.llm, time.time(), settings)  # noqa: TID251 - a date
    except (ValueError, RuntimeError) as error:
        raise StartupError(f"--smg: {one_line(error)}") from error
    servicer.picture_token = engine.picture_token
    return servicer


def _tokenizer_directory(model_config: Any) -> Path:
    """Where the tokenizer's files are; those of a hub's model have been downloaded by the engine's start."""
    local = Path(model_config.tokenizer)
    if local.is_dir():
        return local
    revision = model_config.tokenizer_revision
    return Path(snapshot_download(model_config.tokenizer, revision=revision, local_files_only=True))
