"""Where vLLM schedules and encodes pictures, and where its CPU attention reads them."""

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any


def reads_pictures_both_ways(config: dict[str, Any]) -> bool:
    """Whether a picture's tokens attend to each other in both directions in a model with this config.json."""
    from types import SimpleNamespace

    from vllm.transformers_utils import model_arch_config_convertor as convertors

    own = convertors.MODEL_ARCH_CONFIG_CONVERTORS.get(
        config.get("model_type"), convertors.ModelArchConfigConvertorBase
    )
    return bool(own.is_mm_prefix_lm(SimpleNamespace(hf_config=SimpleNamespace(**config))))


def check_cpu_configuration(check: Callable[[Any], None]) -> None:
    """Makes vLLM's CPU platform hand every complete configuration to `check`, whose errors end the start."""
    from vllm.platforms.cpu import CpuPlatform

    stock = inspect.unwrap(CpuPlatform.check_and_update_config.__func__)

    @functools.wraps(stock)
    def check_and_update_config(cls: Any, vllm_config: Any) -> None:
        stock(cls, vllm_config)
        check(vllm_config)

    CpuPlatform.check_and_update_config = classmethod(check_and_update_config)


def rewrite_cpu_attention_batches(rewrite: Callable[[Any], Any]) -> None:
    """Makes vLLM's CPU attention prepare itself for what `rewrite` makes of a CommonAttentionMetadata."""
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionMetadataBuilder

    stock = inspect.unwrap(CPUAttentionMetadataBuilder.build)

    @functools.wraps(stock)
    def build(self: Any, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False) -> Any:
        return stock(self, common_prefix_len, rewrite(common_attn_metadata), fast_build)

    CPUAttentionMetadataBuilder.build = build


def longest_part(scheduler: Any) -> int:
    """How many tokens of one prompt a step of a scheduler can ever compute."""
    if (most := getattr(scheduler, "octet_longest_part", None)) is not None:
        # Octet's own, whose present limits are those of one step.
        return int(most)
    threshold = scheduler.scheduler_config.long_prefill_token_threshold
    return int(min(scheduler.max_num_scheduled_tokens, threshold or sys.maxsize))


def shorten_chunks(shorten: Callable[[int, int, int, list[tuple[int, int]]], int]) -> None:
    """Makes vLLM's scheduler ask where a part of a prompt with pictures that it would compute may end.

    Args:
        shorten: gets the first token's position, how many there are, how many a step can ever compute for one
            request, and the first and last positions of the picture that the part ends in; returns how many
            tokens may be computed.
    """
    from vllm.v1.core.sched.scheduler import Scheduler

    stock = inspect.unwrap(Scheduler._try_schedule_encoder_inputs)

    @functools.wraps(stock)
    def try_schedule_encoder_inputs(
        self: Any, request: Any, first: int, count: int, budget: int, shift_computed_tokens: int = 0
    ) -> Any:
        most = longest_part(self)
        for feature in request.mm_features if self.vllm_config.model_config.is_mm_prefix_lm else ():
            place = feature.mm_position
            if place.offset < first + count < place.offset + place.length:
                count = shorten(first, count, most, place.extract_embeds_range())
        return stock(self, request, first, count, budget, shift_computed_tokens)

    Scheduler._try_schedule_encoder_inputs = try_schedule_encoder_inputs


def replace_scheduler(scheduler: Callable[[], type[Any]]) -> None:
    """Makes an engine core schedule with the class that `scheduler` gives, a subclass of vLLM's own.

    One that was configured, or that schedules asynchronously (never on CPUs), stays.
    """
    from vllm.config import SchedulerConfig

    stock = inspect.unwrap(SchedulerConfig.get_scheduler_cls)

    @functools.wraps(stock)
    def get_scheduler_cls(self: Any) -> type[Any]:
        chosen = stock(self)
        from vllm.v1.core.sched.scheduler import Scheduler

        return scheduler() if chosen is Scheduler else chosen

    SchedulerConfig.get_scheduler_cls = get_scheduler_cls
