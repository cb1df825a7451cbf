"""vLLM's model runner on CPUs, which encodes pictures a slice a step. Imports vLLM."""

import copy
from typing import Any

from vllm.logger import init_logger
from vllm.model_executor.models.gemma3_mm import Gemma3ForConditionalGeneration
from vllm.model_executor.models.siglip import SiglipVisionModel
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.worker.cpu_model_runner import CPUModelRunner

from octet.engine.vllm.inside.vision.follow import Encoder
from octet.engine.vllm.inside.vision.tower import SlicedTower

logger = init_logger("vllm.plugins.octet")


class PictureRunner(CPUModelRunner):  # type: ignore[misc]
    """Does what PictureScheduler sends along with a step, and tells it how long that took."""

    octet_encoder: Encoder | None = None
    _octet_seconds: float | None = None

    def load_model(self, load_dummy_weights: bool = False) -> None:
        """vLLM's; makes a Gemma 3 tower ready to be run in slices."""
        super().load_model(load_dummy_weights)
        if _has_tower(self.model):
            tower = SlicedTower(self.model)
            self.octet_encoder = Encoder(tower)
            logger.info_once("octet encodes pictures in slices, in %s", tower.dtype, scope="global")

    def warming_up_model(self) -> None:
        """vLLM's, without the pictures that it would encode to see how much memory of a GPU they take."""
        if self.octet_encoder is not None:
            self.model_config.multimodal_config.skip_mm_profiling = True
        super().warming_up_model()

    def _update_states(self, scheduler_output: SchedulerOutput) -> Any:
        # Here the step has dropped what left the cache, and has not looked yet for what it needs of it.
        result = super()._update_states(scheduler_output)
        instruction = getattr(scheduler_output, "octet_pictures", None)
        if instruction is not None and self.octet_encoder is not None:
            seconds = self.octet_encoder.follow(instruction, self.encoder_cache)
            self._octet_seconds = seconds if instruction.slice else None
        return result

    def execute_model(self, *args: Any, **kwargs: Any) -> Any:
        """vLLM's; a step without tokens ends here."""
        return self._timed(super().execute_model(*args, **kwargs))

    def sample_tokens(self, *args: Any, **kwargs: Any) -> Any:
        """vLLM's; a step with tokens ends here."""
        return self._timed(super().sample_tokens(*args, **kwargs))

    def _timed(self, output: Any) -> Any:
        """The output with the seconds that the step's slice took as `octet_seconds`.

        It is copied, because vLLM shares one output between all steps without tokens.
        """
        if self._octet_seconds is None or not isinstance(output, ModelRunnerOutput):
            return output
        output = copy.copy(output)
        output.octet_seconds, self._octet_seconds = self._octet_seconds, None
        return output


def _has_tower(model: Any) -> bool:
    """Whether this is Gemma 3 with its tower, which is not loaded where no pictures are allowed."""
    return isinstance(model, Gemma3ForConditionalGeneration) and isinstance(
        model.vision_tower, SiglipVisionModel
    )
