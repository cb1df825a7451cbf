"""The scheduler, which leaves a picture out of its steps until it is encoded. Imports vLLM."""

from typing import Any

from vllm.logger import init_logger
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.request import Request, RequestStatus

from octet.engine.vllm.inside.pacing.scheduler import PacedScheduler
from octet.engine.vllm.inside.vision.pictures import PictureQueue
from octet.engine.vllm.inside.vision.shape import TowerShape

_ARCHITECTURE = "Gemma3ForConditionalGeneration"

logger = init_logger("vllm.plugins.octet")


class PictureScheduler(PacedScheduler):
    """Has Gemma 3's pictures encoded a slice a step, beside whatever else the step computes.

    To vLLM's own scheduler a picture is there, in its cache of encoder outputs, or its request waits. Other
    models' pictures are scheduled as ever.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._octet_pictures = self._make_queue()

    def _make_queue(self) -> PictureQueue | None:
        config = self.vllm_config
        lora = config.lora_config
        if config.model_config.architecture != _ARCHITECTURE:
            return None
        if lora is not None and lora.enable_tower_connector_lora:
            logger.warning("pictures are encoded in one go: adapters for the vision tower are on")
            return None
        if config.use_v2_model_runner or config.kv_transfer_config or config.ec_transfer_config:
            logger.warning("pictures are encoded in one go: not with another runner or a connector of caches")
            return None
        return PictureQueue(
            TowerShape.of(config.model_config.hf_config.vision_config),
            self.encoder_cache_manager,
            computed=self._octet_computed,
            is_running=lambda request: request.status == RequestStatus.RUNNING,
            by_priority=self.scheduler_config.policy == "priority",
        )

    def _octet_computed(self, request: Request) -> int:
        """The tokens of a request that are computed, or that it would find computed if it began now."""
        if request.status == RequestStatus.RUNNING or request.num_computed_tokens:
            return int(request.num_computed_tokens)
        return int(self.kv_cache_manager.get_computed_blocks(request)[1])

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        """vLLM's step, with what the workers encode beside it as the attribute `octet_pictures`."""
        pictures = self._octet_pictures
        if pictures is not None:
            pictures.settle()
        output = super().schedule(*args, **kwargs)
        if pictures is not None and not pictures.idle:
            output.octet_pictures = pictures.next_instruction(self.octet_spare_seconds())
        return output

    def update_from_output(self, scheduler_output: SchedulerOutput, model_runner_output: Any) -> Any:
        """vLLM's, after the queue has learnt how long the slice took (`octet_seconds`)."""
        seconds = getattr(model_runner_output, "octet_seconds", None)
        if seconds is not None and self._octet_pictures is not None:
            self._octet_pictures.measured(scheduler_output.octet_pictures.slice, seconds)
        return super().update_from_output(scheduler_output, model_runner_output)

    def reset_encoder_cache(self) -> None:
        """vLLM's; what is half encoded with the old weights is given up too."""
        super().reset_encoder_cache()
        if self._octet_pictures is not None:
            self._octet_pictures.reset()

    def _handle_blocked_waiting_request(self, request: Request) -> bool:
        ready: bool = super()._handle_blocked_waiting_request(request)
        pictures = self._octet_pictures
        return ready and not (pictures is not None and request.mm_features and pictures.holds(request))

    def _try_schedule_encoder_inputs(
        self,
        request: Request,
        num_computed_tokens: int,
        num_new_tokens: int,
        encoder_compute_budget: int,
        shift_computed_tokens: int = 0,
    ) -> Any:
        if self._octet_pictures is not None:
            num_new_tokens = self._octet_pictures.limit(
                request, num_computed_tokens, num_new_tokens, shift_computed_tokens
            )
        return super()._try_schedule_encoder_inputs(
            request, num_computed_tokens, num_new_tokens, encoder_compute_budget, shift_computed_tokens
        )
