"""The limits of a server: what its settings say, and what follows from the model where they say nothing."""

from dataclasses import dataclass

from octet.config import ServerConfig
from octet.config.images import ImageMemoryLimits
from octet.engine.types import ModelInfo

_CONTEXTS_WAITING = 8


NO_IMAGE_MEMORY = ImageMemoryLimits(server=0, caller=0, request=0)


@dataclass(frozen=True, slots=True)
class Limits:
    """What `octet.config.admission.AdmissionConfig` describes, with every number known.

    Attributes:
        computed: of the running requests, those that the engine computes at the same time; None for all.
        prompt_tokens: of one caller's prompts, those that the engine has and has not computed yet; None for
            any number.
    """

    running: int
    waiting: int
    waiting_tokens: int
    waiting_images: int
    token_calls: int
    image_memory: ImageMemoryLimits = NO_IMAGE_MEMORY
    running_per_caller: int | None = None
    computed: int | None = None
    prompt_tokens: int | None = None


def limits_of(config: ServerConfig, model: ModelInfo) -> Limits:
    """The limits of a server with `config` in front of `model`."""
    # The engine's own queue has to hold something for the step in which a request ends, or it would compute
    # with an empty place until the next request has been decoded and rendered. What is more than that is
    # better off in Octet's queue, where it is ordered fairly, can be refused, and is cheap to take out.
    running = config.max_running_requests or model.max_sequences + max(1, model.max_sequences // 8)
    waiting = config.max_waiting_requests
    computed = min(running, model.max_sequences)
    return Limits(
        running=running,
        waiting=max(1, running // 4) if waiting is None else waiting,
        waiting_tokens=config.max_waiting_tokens or _CONTEXTS_WAITING * model.context_window,
        waiting_images=config.max_waiting_images,
        token_calls=config.max_token_calls,
        running_per_caller=_running_per_caller(config, computed),
        computed=computed,
        # Where callers are all one, nobody's first request is any better off behind prompts that wait here.
        prompt_tokens=model.step_tokens if config.tells_callers_apart else None,
        image_memory=config.image_memory,
    )


def _running_per_caller(config: ServerConfig, computed: int) -> int | None:
    """How much one caller may have of what the engine computes at once; None where callers are all one."""
    if config.max_running_requests_per_key is not None or not config.tells_callers_apart:
        return config.max_running_requests_per_key
    return max(1, computed - max(1, computed // 8))
