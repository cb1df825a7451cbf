"""The engine that Octet serves with: vLLM's AsyncLLM behind `octet.engine.protocol.Engine`."""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octet.engine.types import (
    Deltas,
    Embedding,
    EmbeddingRequest,
    Event,
    GenerationRequest,
    ModelInfo,
    PositionLogprobs,
    PromptAccepted,
    Service,
    Tokens,
    Usage,
)
from octet.engine.vllm import compat, kernels
from octet.engine.vllm.constraints.checker import Checker
from octet.engine.vllm.constraints.request import Constraint, is_constrained, to_constraint, verified
from octet.engine.vllm.launch import model_files, startup
from octet.engine.vllm.priority import fair_priority
from octet.engine.vllm.serving import adapters, embedding, image_costs, sampling, steps
from octet.engine.vllm.serving.adapters import Adapter, Adapters
from octet.engine.vllm.serving.answer import AnswerParsing, AnswerPlan
from octet.engine.vllm.serving.begun import begun_turn
from octet.engine.vllm.serving.load import KvCacheUsage
from octet.engine.vllm.serving.logprobs import check_prompt_logprobs, to_positions
from octet.engine.vllm.serving.model_info import describe_model
from octet.engine.vllm.serving.render import Prompt, PromptRenderer
from octet.engine.vllm.serving.vocabulary import Vocabulary
from octet.errors import (
    AdapterNotFoundError,
    EngineDeadError,
    InvalidRequestError,
    OctetError,
    StartupError,
    UnavailableError,
)

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

    from octet.engine.vllm.launch.args import EngineSettings

# How long the engine's processes may take to end before they are killed; it takes seconds on a busy CPU.
SHUTDOWN_SECONDS = 20.0


async def create_engine(settings: "EngineSettings") -> "VllmEngine":
    """Starts an engine. Takes as long as the model's loading; the event loop stays free.

    Raises:
        StartupError: with one line that says what is wrong.
    """
    usage = KvCacheUsage()
    launch = startup.Launch(settings)
    try:
        llm = await asyncio.to_thread(launch.serve, [usage])
    except asyncio.CancelledError:
        # The thread is still at it.
        launch.cancel()
        raise
    try:
        await adapters.load(llm, settings.adapters)
        size = llm.vllm_config.model_config.get_vocab_size()
        vocabulary = await asyncio.to_thread(Vocabulary, llm.renderer.tokenizer, size)
        renderer = PromptRenderer(llm.renderer, llm.vllm_config.model_config, settings)
        services = services_of(await llm.get_supported_tasks(), renderer)
        images, _ = await asyncio.gather(_image_costs(llm, renderer, services), compat.prepare(llm))
        model = describe_model(
            llm.vllm_config,
            settings,
            await _active_kernels(llm),
            await _vocabulary_format(llm),
            images,
            vocabulary.longest,
            services,
            renderer.picture_mark,
        )
        return VllmEngine(llm, launch, settings, renderer, vocabulary, usage, model)
    except BaseException as error:
        llm.shutdown(SHUTDOWN_SECONDS)
        launch.close(str(error))
        if launch.lost:
            raise StartupError(launch.lost) from error
        if isinstance(error, OctetError) or not isinstance(error, Exception):
            raise
        # Models that load may have said things of themselves that nothing can be made of.
        raise StartupError(f"cannot serve {settings.engine.model}: {model_files.words(error)}") from error


class VllmEngine:
    """An engine over a running AsyncLLM; made by `create_engine`."""

    def __init__(
        self,
        llm: "AsyncLLM",
        launch: startup.Launch,
        settings: "EngineSettings",
        renderer: PromptRenderer,
        vocabulary: Vocabulary,
        usage: KvCacheUsage,
        model: ModelInfo,
    ) -> None:
        config = llm.vllm_config
        self._llm: AsyncLLM | None = llm
        self._launch = launch
        self._vocabulary = vocabulary
        self._usage = usage
        self._renderer = renderer
        self._answers = AnswerParsing(
            llm.renderer.tokenizer,
            config.model_config,
            settings.tool_call_parser,
            config.structured_outputs_config.reasoning_parser,
            settings.chat_template_kwargs,
            config.reasoning_config,
        )
        self._checker = Checker()
        compat.constraints.check_with(self._checker.check_now)
        self._adapters = Adapters(llm, settings.adapters)
        self._defaults = config.model_config.get_diff_sampling_param()
        self._model = model

    @property
    def llm(self) -> "AsyncLLM":
        """vLLM's engine.

        Raises:
            EngineDeadError: after `close`.
        """
        if self._llm is None:
            raise EngineDeadError("the engine is closed")
        return self._llm

    @property
    def model(self) -> ModelInfo:
        """What is served."""
        return self._model

    @property
    def picture_token(self) -> int | None:
        """The token that stands for a picture in prompts; None where there is none, or not only one."""
        return self._renderer.picture_token

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """Continues the conversation; see `octet.engine.protocol.Engine.generate`."""
        from vllm.v1.engine.exceptions import EngineDeadError as VllmEngineDeadError

        constraint = await self._constrain(request)
        prompt, params, plan = await self._prepare(request, constraint)
        watches = steps.watches_of(constraint, begun_turn(request.messages), len(plan.readers))
        queue, adapter = await self._add(request, prompt, params, plan)
        finished = False
        accepted = PromptAccepted(prompt.tokens, prompt.image_tokens)
        usage = Usage(prompt.tokens, 0, 0, prompt.image_tokens)
        prompt_logprobs: tuple[PositionLogprobs, ...] = ()
        begun = False
        owes_prompt_logprobs = request.sampling.prompt_logprobs is not None
        # Pictures take much memory, and an answer may take minutes.
        again = request if prompt.leaves_pictures_out else None
        del request, prompt
        try:
            yield accepted
            while not finished:
                # Without awaiting where something is there already: saves a switch of tasks a step.
                output = queue.get_nowait() or await queue.get()
                if again is not None:
                    resent, again = again, None
                    if steps.lacks_pictures(output):
                        queue, adapter = await self._resend(resent, constraint, queue, adapter)
                        continue
                finished = output.finished
                usage = steps.add_usage(usage, output, plan.readers)
                if output.prompt_logprobs and owes_prompt_logprobs:
                    # Every candidate brings them. A long prompt has very many.
                    owes_prompt_logprobs = False
                    prompt_logprobs = await asyncio.to_thread(
                        to_positions, output.prompt_logprobs, self._vocabulary, params.prompt_logprobs or 0
                    )
                steps.raise_failure(output, constraint)
                deltas, cut = steps.read(output, plan.readers, self._vocabulary, params.logprobs or 0)
                if self._model.limits_reasoning:
                    thought = sum(reader.reasoning_tokens for reader in plan.readers)
                    usage = dataclasses.replace(usage, reasoning_tokens=thought)
                if watches:
                    deltas = await steps.watched(deltas, watches)
                if cut:
                    # What the candidates would go on to write is not wanted.
                    await self.llm.abort(compat.candidate_ids(queue.request_id, cut, params.n), internal=True)
                if deltas or not begun:
                    begun = True
                    yield Deltas(tuple(deltas), usage, prompt_logprobs)
                    prompt_logprobs = ()
        except VllmEngineDeadError as error:
            finished = True
            raise self._death() from error
        finally:
            try:
                if not finished and self._llm is not None:
                    await self._llm.abort(queue.request_id, internal=True)
            finally:
                queue.close()
                self._adapters.give_back(adapter)

    async def _resend(
        self, request: GenerationRequest, constraint: Constraint | None, queue: Any, adapter: Adapter | None
    ) -> tuple[Any, Adapter | None]:
        """Hands a request to the engine a second time, with the pictures that the engine was thought to have.

        Args:
            request: the request, of which nothing is answered yet.
            constraint: what its answer is held to.
            queue: of the first attempt.
            adapter: the one that the first attempt took.

        Returns:
            The new queue, and the adapter to give back.
        """
        await self.llm.abort(queue.request_id, internal=True)
        queue.close()
        prompt, params, plan = await self._prepare(request, constraint, send_once=False)
        queue, taken = await self._add(request, prompt, params, plan)
        self._adapters.give_back(adapter)
        return queue, taken

    async def embed(self, request: EmbeddingRequest) -> Embedding:
        """Gives a prompt's vector; see `octet.engine.protocol.Engine.embed`."""
        from vllm.v1.engine.exceptions import EngineDeadError as VllmEngineDeadError

        prompt, truncated = await self._renderer.render_input(request)
        adapter = self._adapters.take(request.adapter)
        try:
            lora_request = adapter.request if adapter else None
            return await embedding.embed(self.llm, request, prompt, lora_request, truncated=truncated)
        except VllmEngineDeadError as error:
            raise self._death() from error
        finally:
            self._adapters.give_back(adapter)

    async def count_tokens(self, request: GenerationRequest) -> PromptAccepted:
        """Counts a prompt's tokens; see `octet.engine.protocol.Engine.count_tokens`."""
        constraint = await self._constrain(request)
        prompt, _, _ = await self._prepare(request, constraint, send_once=False)
        return PromptAccepted(prompt.tokens, prompt.image_tokens)

    async def tokenize(
        self, text: str, *, add_special_tokens: bool, parse_special_tokens: bool | None = None
    ) -> Tokens:
        """Splits a text into tokens; see `octet.engine.protocol.Engine.tokenize`."""
        special = self._renderer.plain_names(parse_special_tokens)
        return await self._vocabulary.tokenize(text, add_special_tokens=add_special_tokens, special=special)

    async def detokenize(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Puts tokens together to text."""
        return await self._vocabulary.detokenize(token_ids, skip_special_tokens=skip_special_tokens)

    async def load_adapter(self, name: str, folder: Path, *, replace: bool) -> bool:
        """See `octet.engine.protocol.Engine.load_adapter`."""
        from vllm.v1.engine.exceptions import EngineDeadError as VllmEngineDeadError

        try:
            loaded = await self._adapters.load(name, folder, replace=replace)
        except VllmEngineDeadError as error:
            raise self._death() from error
        self._model = dataclasses.replace(self._model, adapters=self._adapters.names)
        return loaded

    async def unload_adapter(self, name: str) -> int | None:
        """See `octet.engine.protocol.Engine.unload_adapter`."""
        running = await self._adapters.unload(name)
        self._model = dataclasses.replace(self._model, adapters=self._adapters.names)
        return running

    async def num_unfinished(self) -> int:
        """Requests that the scheduler in the engine's own process holds, waiting and running."""
        from vllm.v1.engine.exceptions import EngineDeadError as VllmEngineDeadError

        try:
            return await compat.unfinished_requests(self.llm)
        except VllmEngineDeadError as error:
            raise self._death() from error

    def kv_cache_usage(self) -> float | None:
        """See `octet.engine.protocol.Engine.kv_cache_usage`."""
        return self._usage.latest()

    async def check_health(self) -> None:
        """Raises EngineDeadError when a process of the engine or one of its machines is gone."""
        if self._launch.lost or self.llm.errored:
            raise self._death()
        self._launch.seen_alive()

    def close(self) -> None:
        """Stops the engine and its processes. Idempotent."""
        llm, self._llm = self._llm, None
        self._checker.close()
        if llm is not None:
            # Asked before: an engine that was stopped says so, too.
            reason = "its engine has died" if llm.errored else ""
            llm.shutdown(SHUTDOWN_SECONDS)
            self._launch.close(reason)

    def kill(self) -> None:
        """Ends the engine's processes at once, also those that `close` waits for in another thread."""
        self._launch.cancel()

    def _death(self) -> EngineDeadError:
        how = f": {startup.WANT_OF_MEMORY}" if self._launch.short_of_memory else ""
        return EngineDeadError(self._launch.lost or f"the engine has died{how}")

    async def _constrain(self, request: GenerationRequest) -> Constraint | None:
        """What the answer is held to, before anything else is done for the request."""
        if not is_constrained(request):
            return None
        constraint = await asyncio.to_thread(to_constraint, request)
        if begun := begun_turn(request.messages):
            constraint = constraint.going_on(begun.text, begun.field)
        return await verified(constraint, self._checker.check)

    async def _prepare(
        self, request: GenerationRequest, constraint: Constraint | None, *, send_once: bool = True
    ) -> tuple[Prompt, "SamplingParams", AnswerPlan]:
        """The prompt, how the answer is sampled, and how it is read."""
        prompt = await self._renderer.render(request, send_once=send_once)
        try:
            if request.sampling.bad_words:
                # Tokenizes the words, which may take a while.
                return prompt, *await asyncio.to_thread(self._plan, request, constraint, prompt)
            return prompt, *self._plan(request, constraint, prompt)
        except BaseException:
            self._renderer.forget(prompt)
            raise

    def _plan(
        self, request: GenerationRequest, constraint: Constraint | None, prompt: Prompt
    ) -> tuple["SamplingParams", AnswerPlan]:
        """How the answer is sampled, and how it is read."""
        params = sampling.to_sampling_params(
            request,
            constraint=constraint,
            room=self._model.context_window - prompt.tokens,
            output_token_limit=self._model.output_token_limit,
            defaults=self._defaults,
        )
        siblings = request.prompt.siblings if request.prompt else 1
        check_prompt_logprobs(request.sampling, prompt.tokens, siblings)
        begun = begun_turn(request.messages)
        if begun is not None:
            compat.stopping.look_behind(params, begun.text)
        plan = self._answers.plan(request, prompt.engine_input["prompt_token_ids"], params, begun)
        sampling.verify(self.llm, request, params)
        return params, plan

    async def _add(
        self, request: GenerationRequest, prompt: Prompt, params: "SamplingParams", plan: AnswerPlan
    ) -> tuple[Any, Adapter | None]:
        """Hands the request to the engine; returns the queue of its outputs, and the adapter to give back."""
        from vllm.exceptions import GracefulHTTPError, VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError as VllmEngineDeadError

        try:
            adapter = self._adapters.take(request.adapter)
        except AdapterNotFoundError:
            self._renderer.forget(prompt)
            raise
        queue = None
        try:
            queue = await self.llm.add_request(
                request.request_id,
                prompt.engine_input,
                params,
                lora_request=adapter.request if adapter else None,
                priority=fair_priority(request.priority, request.rank),
                trace_headers=request.trace_headers or None,
                **plan.engine_arguments,
            )
        except VllmEngineDeadError as error:
            raise self._death() from error
        except GracefulHTTPError as error:
            raise UnavailableError(error.message) from error
        except (VLLMClientError, ValueError) as error:
            raise sampling.sampling_error(error) from error
        finally:
            if queue is None:
                self._adapters.give_back(adapter)
        return queue, adapter


def services_of(tasks: Sequence[str], renderer: PromptRenderer) -> tuple[Service, ...]:
    """What a model that vLLM can ask for these tasks is for.

    Raises:
        StartupError: none of it is served.
    """
    if "embed" in tasks:
        return (Service.EMBEDDING,)
    if "generate" not in tasks:
        raise StartupError(
            f"the model is for {', '.join(tasks) or 'nothing'}; Octet serves models that write texts, and "
            "such as make vectors of them"
        )
    return (Service.CHAT, Service.COMPLETION) if renderer.has_template else (Service.COMPLETION,)


async def _image_costs(
    llm: "AsyncLLM", renderer: PromptRenderer, services: tuple[Service, ...]
) -> image_costs.ImageCosts:
    """What pictures take in the model's prompts; nothing where vectors are made of texts.

    Raises:
        StartupError: when the model cannot be shown a picture.
    """
    if Service.EMBEDDING in services:
        return image_costs.ImageCosts()
    try:
        return await image_costs.measure(renderer, llm.renderer.mm_processor)
    except InvalidRequestError as error:
        raise StartupError(f"the model cannot be shown a picture: {error.message}") from error


async def _active_kernels(llm: "AsyncLLM") -> tuple[str, ...]:
    """What the workers of all ranks report, one line a kernel where they agree."""
    return kernels.summarize(await compat.ask_workers(llm, "octet_active_kernels"))


async def _vocabulary_format(llm: "AsyncLLM") -> str:
    """The FP8 format of the output layer, "" where it is not FP8; ranks without one say nothing of it."""
    said: list[str] = await compat.ask_workers(llm, "octet_vocabulary_format")
    return max(said)
