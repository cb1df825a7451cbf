"""The checkpoint formats that Octet's kernels multiply, and where each pair of them can be served.

Two quantization methods hold FP8-Dynamic weights. compressed-tensors knows E4M3 only; `octet_fp8`, which is
Octet's own, names the formats of weights and activations separately:

    {"quant_method": "octet_fp8", "weights": "e5m2", "activations": "e4m3", "ignore": ["re:vision_tower.*"]}

"vocabulary": true beside these says that the output layer, too, is stored as codes with scales.

Importing this module imports neither vLLM nor torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from octet.engine.vllm import kernels

METHOD = "octet_fp8"

FORMATS = ("e4m3", "e5m2")

# torch's names of the formats' dtypes, and safetensors'.
TORCH_DTYPES = {"e4m3": "float8_e4m3fn", "e5m2": "float8_e5m2"}
SAFETENSORS_DTYPES = {"e4m3": "F8_E4M3", "e5m2": "F8_E5M2"}

FP8_VOCABULARY = "octet_fp8_vocabulary"
"""Key of vLLM's `additional_config` by which an engine's processes learn of --fp8-vocabulary."""

OUTPUT_LAYER = "lm_head"
"""How the names of layers that make logits end, in checkpoints and in vLLM."""

_KEYS = {"quant_method", "weights", "activations", "ignore", "vocabulary"}


@dataclass(frozen=True, slots=True)
class FormatPair:
    """The number formats of a checkpoint's linear layers: "e4m3" or "e5m2" each.

    Attributes:
        weights: of the stored codes; one scale per output channel.
        activations: of what a layer's input is quantized to while it runs; one scale per token.
    """

    weights: str
    activations: str

    def __str__(self) -> str:
        return f"{self.weights.upper()} weights with {self.activations.upper()} activations"


STOCK_PAIR = FormatPair("e4m3", "e4m3")
"""The one pair that vLLM multiplies without Octet."""

UNMULTIPLIED_ON_CUDA = FormatPair("e5m2", "e5m2")
"""cuBLASLt and CUTLASS multiply every pair in which at least one operand is E4M3."""


def read_config(config: Mapping[str, Any]) -> tuple[FormatPair, list[str]]:
    """Reads an `octet_fp8` quantization config.

    Returns:
        The formats, and the names of modules that stay unquantized; one that begins with "re:" is a regular
        expression, matched from a name's beginning.

    Raises:
        ValueError: something in it is missing, unknown or of a wrong type; the message is one line.
    """
    for key in ("weights", "activations"):
        if config.get(key) not in FORMATS:
            raise ValueError(f"quantization_config.{key}: {config.get(key)!r} is neither 'e4m3' nor 'e5m2'")
    ignore = config.get("ignore", [])
    if not isinstance(ignore, list) or not all(isinstance(name, str) for name in ignore):
        raise ValueError("quantization_config.ignore: is not a list of names")
    if (said := config.get("vocabulary", False)) is not True and said is not False:
        raise ValueError("quantization_config.vocabulary: is neither true nor false")
    if unknown := sorted(set(config) - _KEYS):
        raise ValueError(f"quantization_config.{unknown[0]}: {METHOD} knows no such setting")
    return FormatPair(config["weights"], config["activations"]), list(ignore)


def asks_for_fp8_vocabulary(additional_config: Any) -> bool:
    """Whether vLLM's `additional_config` says what --fp8-vocabulary does."""
    return isinstance(additional_config, Mapping) and bool(additional_config.get(FP8_VOCABULARY))


def unserved_reason(pair: FormatPair, device: str) -> str | None:
    """Why `device` ("cpu", "cuda", ...) cannot multiply a pair, whatever is installed; None when it can."""
    if pair == STOCK_PAIR or device == "cpu":
        return None
    if device != "cuda":
        return f"{pair} can be served on CPUs and on CUDA only, not on {device}"
    if pair == UNMULTIPLIED_ON_CUDA:
        return (
            f"CUDA multiplies no {pair}; quantize the weights or the activations to e4m3 "
            "(octet quantize --weights e4m3, or --activations e4m3), or serve it on a CPU"
        )
    return None


def refusal(pair: FormatPair, device: str) -> str | None:
    """Why a pair cannot be served on `device` with what is installed and switched on here; None when it can.

    Raises:
        StartupError: OCTET_KERNELS holds neither "on" nor "off".
    """
    if reason := unserved_reason(pair, device):
        return reason
    if pair == STOCK_PAIR:
        return None
    if not kernels.wanted():
        reason = f"{kernels.SWITCH}=off leaves vLLM's own kernels, which multiply E4M3 by E4M3 only"
        return f"{pair} needs Octet's kernels, and {reason}; unset {kernels.SWITCH}"
    if reason := kernels.unavailable_reason(device):
        return f"{pair} needs Octet's kernels: {reason}"
    return None
