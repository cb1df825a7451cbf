"""What becomes of each tensor, decided before anything is written: headers are read, data is not."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from octet.quantize import architectures
from octet.quantize.errors import QuantizeError
from octet.quantize.options import Options
from octet.quantize.safetensors_file import Header, StoredTensor, lay_out, read_header
from octet.quantize.source import CONFIG, Source

SCALE_SUFFIX = "_scale"
"""A weight `X.weight` has its scale in `X.weight_scale`."""

FLOAT_DTYPES = ("BF16", "F16", "F32")
"""Dtypes of weights that can be quantized."""

_WEIGHT = ".weight"


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """What becomes of one tensor.

    Attributes:
        source: where it lies.
        target: where it, or its codes, will lie.
        scale: where its scale will lie; None for a tensor that is copied.
    """

    source: StoredTensor
    target: StoredTensor
    scale: StoredTensor | None


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """What becomes of one weight file.

    Attributes:
        source: its path.
        name: its name, that of the new file too.
        start: the new file's bytes up to its data.
        header: what they say.
        tensors: its tensors, in the order in which they lie in the source.
    """

    source: Path
    name: str
    start: bytes
    header: Header
    tensors: tuple[TensorPlan, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of a checkpoint.

    Attributes:
        shards: its weight files.
        ignored: linear layers that stay as they are, in the order in which the model holds them, under the
            names that the checkpoint gives them.
    """

    shards: tuple[ShardPlan, ...]
    ignored: tuple[str, ...]


def make_plan(source: Source, options: Options) -> Plan:
    """Decides which tensors are quantized, as llm-compressor does, and lays the new files out.

    Raises:
        QuantizeError: the architecture is not known, a file is damaged, a tensor that is to be quantized is
            of a dtype that cannot be, or there is nothing to quantize.
    """
    architecture = architectures.find(source.architecture, source.directory / CONFIG)
    headers = {shard: read_header(source.directory / shard) for shard in source.shards}
    _check_index(source, headers)
    modules = _linear_modules(source, architecture, headers)
    chosen = {
        module
        for module in modules
        if _matches(module, options.targets) and not _matches(module, options.ignore)
    }
    if not chosen:
        raise QuantizeError(f"{source.directory}: no linear layer is left to quantize")
    shards = tuple(
        _plan_shard(source.directory / name, header, chosen, options) for name, header in headers.items()
    )
    ignored = [module for module in modules if module not in chosen]
    if not any(module.endswith(architectures.OUTPUT_LAYER) for module in modules):
        ignored.append(
            architectures.OUTPUT_LAYER
        )  # It shares the embedding, and is a linear layer all the same.
    return Plan(shards, tuple(ignored))


def _matches(module: str, patterns: Sequence[str]) -> bool:
    """Whether llm-compressor would match a linear layer: by regular expression, class or name."""
    return any(
        re.match(pattern.removeprefix("re:"), module) is not None
        if pattern.startswith("re:")
        else pattern in ("Linear", module)
        for pattern in patterns
    )


def _check_index(source: Source, headers: dict[str, Header]) -> None:
    held = {tensor.name: shard for shard, header in headers.items() for tensor in header.tensors}
    if len(held) < sum(len(header.tensors) for header in headers.values()):
        raise QuantizeError(f"{source.directory}: a tensor is in more than one weight file")
    if source.weight_map is None:
        return
    for name, shard in source.weight_map.items():
        if held.get(name) != shard:
            raise QuantizeError(f"{source.directory / shard} lacks the tensor {name}, which the index names")
    for name, shard in held.items():
        if name not in source.weight_map:
            raise QuantizeError(f"{source.directory / shard} holds the tensor {name}, which the index lacks")


def _linear_modules(
    source: Source, architecture: architectures.Architecture, headers: dict[str, Header]
) -> list[str]:
    """Names of the linear layers, in the model's order."""
    found = []
    for shard, header in headers.items():
        for tensor in header.tensors:
            if not tensor.name.endswith(_WEIGHT) or len(tensor.shape) != 2:
                continue
            module = tensor.name.removesuffix(_WEIGHT)
            position = architecture.position(module)
            if position is not None:
                found.append((position, module))
            elif "embed" not in module:
                # Left alone, it would be a layer that is not quantized and that nothing says so of.
                raise QuantizeError(
                    f"{source.directory / shard}: {source.architecture} is not known to have "
                    f"the matrix {tensor.name}"
                )
    return [module for _, module in sorted(found)]


def _plan_shard(path: Path, header: Header, chosen: Iterable[str], options: Options) -> ShardPlan:
    quantized = {f"{module}{_WEIGHT}" for module in chosen}
    contents: list[tuple[str, str, tuple[int, ...]]] = []
    for tensor in header.tensors:
        if tensor.name not in quantized:
            contents.append((tensor.name, tensor.dtype, tensor.shape))
            continue
        if tensor.dtype not in FLOAT_DTYPES:
            already = "is quantized already" if tensor.dtype.startswith("F8") else "cannot be quantized"
            raise QuantizeError(f"{path}: tensor {tensor.name} {already}: its dtype is {tensor.dtype}")
        contents.append((tensor.name, options.weights.dtype_name, tensor.shape))
        scale_dtype = options.weights.scale_dtype_name(tensor.dtype)
        contents.append((tensor.name + SCALE_SUFFIX, scale_dtype, (tensor.shape[0], 1)))
    start, target = lay_out(contents, header.metadata)
    placed = {tensor.name: tensor for tensor in target.tensors}
    tensors = tuple(
        TensorPlan(
            tensor,
            placed[tensor.name],
            placed[tensor.name + SCALE_SUFFIX] if tensor.name in quantized else None,
        )
        for tensor in header.tensors
    )
    return ShardPlan(path, path.name, start, target, tensors)
