"""What the user chooses: formats, layers, workers."""

import math
from dataclasses import dataclass
from enum import Enum

DEFAULT_TARGETS = ("Linear",)
DEFAULT_IGNORE = ("lm_head", "re:.*vision_tower.*", "re:.*multi_modal_projector.*")


class Format(Enum):
    """An FP8 format, by the name that the command line gives it."""

    E4M3 = "e4m3"
    E5M2 = "e5m2"

    @property
    def dtype_name(self) -> str:
        """What safetensors calls it."""
        return f"F8_{self.name}"

    @property
    def least_sqnr(self) -> float:
        """The least SQNR in dB that rounding leaves of a channel, whose error is at most 1/16 or 1/8 of a
        weight; half a dB is for the rounding of its scale.
        """
        return 20 * math.log10(16 if self is Format.E4M3 else 8) - 0.5

    def scale_dtype_name(self, weight: str) -> str:
        """Dtype of the scales of a weight whose dtype is `weight`, in safetensors' names: the same, with one
        exception. A scale for E5M2, a 57344th of the largest weight, is too small for half.
        """
        return "F32" if self is Format.E5M2 and weight == "F16" else weight


@dataclass(frozen=True, slots=True)
class Options:
    """How a checkpoint is quantized.

    Attributes:
        weights: format of the weights.
        activations: format in which the activations are quantized when the model is served.
        targets: layers to quantize, and
        ignore: layers not to, as llm-compressor takes them: ``Linear``, a layer's name, or ``re:`` and a
            regular expression that matches the start of its name.
        vocabulary: quantize the output layer, which stays as it is otherwise whatever these say; where it
            shares the embedding, write it as a tensor of its own.
        workers: threads that quantize and copy.
        verify: read the result back, compare it with the source, and measure its error.
        like: the architecture to take the checkpoint for; None takes what its config says.
        blocks: regular expression that the names of its linear layers begin with, for a checkpoint that
            nobody knows; None asks the architecture.
    """

    weights: Format = Format.E4M3
    activations: Format = Format.E4M3
    targets: tuple[str, ...] = DEFAULT_TARGETS
    ignore: tuple[str, ...] = DEFAULT_IGNORE
    vocabulary: bool = False
    workers: int = 2
    verify: bool = False
    like: str | None = None
    blocks: str | None = None
