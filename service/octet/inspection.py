"""What `octet inspect` finds out about a checkpoint: which weights are quantized, how, and who serves it.

Only config.json and the headers of the weight files are read.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from octet.engine.vllm import compat, formats, kernels
from octet.engine.vllm.checkpoint import (
    Checkpoint,
    contents_of,
    read_checkpoint,
    read_tensors,
    unknown_to_vllm,
    unmultiplied_on_cpu,
)
from octet.engine.vllm.formats import FormatPair
from octet.engine.vllm.serving.model_info import FP8_DYNAMIC
from octet.loading import naming, rules
from octet.loading.contents import Contents
from octet.loading.headers import Tensor

DEVICES = ("cpu", "cuda")

_WEIGHT, _SCALE = ".weight", ".weight_scale"


@dataclass(frozen=True, slots=True)
class Kind:
    """Modules that differ only in the numbers in their names, and are stored in the same way.

    Attributes:
        modules: their name, with "*" for the numbers.
        count: how many there are.
        dtype: of what they hold, as safetensors names it.
        scales: of quantized weights, such as "BF16 per channel"; "" of others.
        parameters: elements of their tensors, scales left out.
        bytes: length of their tensors, scales included.
    """

    modules: str
    count: int
    dtype: str
    scales: str
    parameters: int
    bytes: int

    @property
    def quantized(self) -> bool:
        """Whether they are stored as codes with scales."""
        return bool(self.scales)


@dataclass(frozen=True, slots=True)
class Service:
    """Whether a kind of device would serve the checkpoint.

    Attributes:
        device: "cpu" or "cuda".
        here: whether it is what the engine that is installed here computes on; then what is installed and
            switched on counts, and of other devices what Octet can do.
        served: whether it can be served there.
        detail: by which kernels; where it is not served, why.
    """

    device: str
    here: bool
    served: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """A checkpoint, described.

    Attributes:
        checkpoint: what its config says.
        kinds: its modules.
        problems: what contradicts the config, one line each.
        contents: what the rules of loading look at.
    """

    checkpoint: Checkpoint
    kinds: tuple[Kind, ...]
    problems: tuple[str, ...]
    contents: Contents

    @property
    def parameters(self) -> int:
        """Elements of all tensors, scales left out."""
        return sum(kind.parameters for kind in self.kinds)

    @property
    def quantized_parameters(self) -> int:
        """Those that are stored as codes with scales."""
        return sum(kind.parameters for kind in self.kinds if kind.quantized)

    @property
    def bytes(self) -> int:
        """Length of all tensors."""
        return sum(kind.bytes for kind in self.kinds)

    def as_json(self, services: Iterable[Service]) -> dict[str, Any]:
        """The description as JSON values."""
        scheme = self.checkpoint.quantization
        return {
            "folder": str(self.checkpoint.folder),
            "architectures": list(self.checkpoint.architectures),
            "quant_method": self.checkpoint.quant_method or None,
            "scheme": scheme.scheme if scheme else None,
            "weight_format": scheme.weight_format if scheme else None,
            "activation_format": scheme.activation_format if scheme else None,
            "vocabulary_format": self.checkpoint.vocabulary_format,
            "parameters": self.parameters,
            "quantized_parameters": self.quantized_parameters,
            "bytes": self.bytes,
            "modules": [asdict(kind) for kind in self.kinds],
            "problems": list(self.problems),
            "devices": [asdict(service) for service in services],
        }


def inspect(model: str) -> Inspection:
    """Describes a local directory, or a hub id in the local cache. Imports vLLM, which takes seconds.

    Raises:
        CheckpointError: it is not there, is not whole, or its files cannot be read.
    """
    checkpoint = read_checkpoint(model)
    tensors = read_tensors(checkpoint)
    contents = contents_of(checkpoint, tensors)
    return Inspection(checkpoint, tuple(_kinds(tensors)), tuple(rules.problems(contents)), contents)


def services(inspection: Inspection) -> list[Service]:
    """Where the checkpoint would be served, and by which kernels. Imports vLLM, which takes seconds."""
    return [_service(inspection, device) for device in DEVICES]


def _kinds(tensors: dict[str, Tensor]) -> Iterator[Kind]:
    groups: dict[tuple[str, str, str], list[Tensor]] = {}
    for tensor in tensors.values():
        if tensor.name.endswith(_SCALE):
            continue
        scale = _scale_of(tensor, tensors)
        module = naming.kind(tensor.name.removesuffix(_WEIGHT))
        groups.setdefault((module, tensor.dtype, _describe_scale(tensor, scale)), []).append(tensor)
    for (module, dtype, scales), members in sorted(groups.items()):
        found = [scale for member in members if (scale := _scale_of(member, tensors))]
        yield Kind(
            modules=module,
            count=len(members),
            dtype=dtype,
            scales=scales,
            parameters=sum(member.elements for member in members),
            bytes=sum(tensor.bytes for tensor in (*members, *found)),
        )


def _scale_of(tensor: Tensor, tensors: dict[str, Tensor]) -> Tensor | None:
    return tensors.get(f"{tensor.name}_scale") if tensor.name.endswith(_WEIGHT) else None


def _describe_scale(weight: Tensor, scale: Tensor | None) -> str:
    if scale is None:
        return ""
    if scale.shape == (weight.shape[0], 1):
        return f"{scale.dtype} per channel"
    return f"{scale.dtype} per tensor" if scale.elements == 1 else f"{scale.dtype} {list(scale.shape)}"


def _service(inspection: Inspection, device: str) -> Service:
    here = device == compat.engine_device()
    if reason := _obstacle(inspection, device, here=here):
        return Service(device, here, False, reason)
    return Service(device, here, True, _kernels(_pair(inspection.checkpoint), device, here=here))


def _obstacle(inspection: Inspection, device: str, *, here: bool) -> str | None:
    """Why `device` would not serve the checkpoint; of this machine's, what is installed counts too."""
    pair = _pair(inspection.checkpoint)
    if pair is not None and (reason := formats.unserved_reason(pair, device)):
        return reason
    found = [*inspection.problems, *unknown_to_vllm(inspection.checkpoint)]
    if device == "cpu" and (reason := unmultiplied_on_cpu(inspection.contents)):
        found.append(reason)
    if not found and pair is not None and here and (reason := formats.refusal(pair, device)):
        found.append(reason)
    return found[0] if found else None


def _kernels(pair: FormatPair | None, device: str, *, here: bool) -> str:
    """The kernels for the quantized layers, for a checkpoint that is served."""
    if pair is None or (here and not (kernels.wanted() and kernels.unavailable_reason(device) is None)):
        return "vLLM's own kernels"
    quantize = f"per_token_quant_fp8={kernels.variant(device) if here else 'octet'}"
    if device == "cpu":
        return f"{quantize} fp8_linear={kernels.variant(device) if here else 'octet'}"
    if pair == formats.STOCK_PAIR:
        return f"{quantize} fp8_linear=vLLM's choice; below compute capability 8.9 nothing is quantized"
    return f"{quantize} fp8_linear=torch._scaled_mm"


def _pair(checkpoint: Checkpoint) -> FormatPair | None:
    """The formats of an FP8-Dynamic checkpoint, whichever method says so."""
    scheme = checkpoint.quantization
    if scheme is None or scheme.scheme != FP8_DYNAMIC:
        return None
    return FormatPair(scheme.weight_format, scheme.activation_format)
