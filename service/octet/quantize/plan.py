"""What becomes of each tensor, decided before anything is written: headers are read, data is not."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from octet.quantize import architectures
from octet.quantize.errors import QuantizeError
from octet.quantize.floats import FLOAT_DTYPES
from octet.quantize.merge import Change
from octet.quantize.options import Options
from octet.quantize.safetensors_file import Header, StoredTensor, lay_out
from octet.quantize.source import CONFIG, Source

SCALE_SUFFIX = "_scale"
"""A weight `X.weight` has its scale in `X.weight_scale`."""

_WEIGHT = ".weight"

# What names of a language model within another begin with in published checkpoints; its output layer's too.
_NESTED = "language_model."


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """What becomes of one tensor.

    An embedding that an output layer shares has two: it is copied, and becomes that layer's codes.

    Attributes:
        source: where it lies.
        target: where it, or its codes, will lie; no other one's target has this name.
        scale: where its scale will lie; None for a tensor that is copied.
        change: what an adapter does to it first; None where it stays.
    """

    source: StoredTensor
    target: StoredTensor
    scale: StoredTensor | None
    change: Change | None = None


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """What becomes of one weight file.

    Attributes:
        source: its name among the source's.
        path: where it lies, or will lie when it is its turn.
        name: the new file's name.
        start: the new file's bytes up to its data.
        header: what they say.
        tensors: its tensors, in the order in which they lie in the source; an output layer that shares the
            embedding comes last.
    """

    source: str
    path: Path
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
        vocabulary: whether the output layer is quantized.
    """

    shards: tuple[ShardPlan, ...]
    ignored: tuple[str, ...]
    vocabulary: bool


def make_plan(source: Source, options: Options) -> Plan:
    """Decides which tensors are quantized, as llm-compressor does, and lays the new files out.

    Raises:
        QuantizeError: the architecture is not known, a file is damaged, a tensor that is to be quantized is
            of a dtype that cannot be, or there is nothing to quantize.
    """
    architecture = architectures.find(source.architecture, source.directory / CONFIG)
    headers = {shard: source.files.header(shard) for shard in source.files.names}
    _check_index(source, headers)
    modules = _linear_modules(source, architecture, headers)
    chosen = {
        module
        for module in modules
        if _matches(module, options.targets) and not _matches(module, options.ignore)
    }
    outputs = {module for module in modules if module.endswith(architectures.OUTPUT_LAYER)}
    if options.vocabulary:
        chosen |= outputs
    if not chosen:
        raise QuantizeError(f"{source.directory}: no linear layer is left to quantize")
    vocabulary = options.vocabulary or bool(chosen & outputs)
    if vocabulary and not architecture.has_output_layer:
        raise QuantizeError(
            f"{source.directory}: vLLM multiplies by the embedding of {source.architecture}, which has to "
            "stay as it is; octet serve --fp8-vocabulary quantizes it when it is loaded"
        )
    tied = _tied_output(source, headers) if options.vocabulary and not outputs else None
    changes = source.changes(tensor for header in headers.values() for tensor in header.tensors)
    shards = tuple(
        _plan_shard(source, name, header, chosen, tied, changes, options) for name, header in headers.items()
    )
    ignored = [module for module in modules if module not in chosen]
    if not outputs and tied is None:
        # It shares the embedding, and is a linear layer all the same.
        ignored.append(architectures.OUTPUT_LAYER)
    return Plan(shards, tuple(ignored), vocabulary)


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


@dataclass(frozen=True, slots=True)
class _TiedOutput:
    """An output layer that shares the embedding: what that is called, and what the layer will be."""

    embedding: str
    weight: str


def _tied_output(source: Source, headers: dict[str, Header]) -> _TiedOutput:
    found = architectures.shared_embeddings(
        tensor.name for header in headers.values() for tensor in header.tensors
    )
    if len(found) != 1:
        raise QuantizeError(
            f"{source.directory} holds no output layer, and {len(found) or 'no'} embeddings that it could "
            "share"
        )
    prefix = _NESTED if found[0].startswith(_NESTED) else ""
    return _TiedOutput(found[0], f"{prefix}{architectures.OUTPUT_LAYER}{_WEIGHT}")


def _plan_shard(
    source: Source,
    shard: str,
    header: Header,
    chosen: Iterable[str],
    tied: _TiedOutput | None,
    changes: Mapping[str, Change],
    options: Options,
) -> ShardPlan:
    path = source.files.path(shard)
    quantized = {f"{module}{_WEIGHT}" for module in chosen}
    made: list[tuple[StoredTensor, str, bool]] = [
        (tensor, tensor.name, tensor.name in quantized) for tensor in header.tensors
    ]
    made += [(t, tied.weight, True) for t in header.tensors if tied is not None and t.name == tied.embedding]
    contents: list[tuple[str, str, tuple[int, ...]]] = []
    for tensor, name, to_codes in made:
        if not to_codes:
            contents.append((name, tensor.dtype, tensor.shape))
            continue
        if tensor.dtype not in FLOAT_DTYPES:
            already = "is quantized already" if tensor.dtype.startswith("F8") else "cannot be quantized"
            raise QuantizeError(f"{path}: tensor {tensor.name} {already}: its dtype is {tensor.dtype}")
        contents.append((name, options.weights.dtype_name, tensor.shape))
        # What an adapter changes is float32, and quantized as such.
        weight_dtype = "F32" if tensor.name in changes else tensor.dtype
        scale_dtype = options.weights.scale_dtype_name(weight_dtype)
        contents.append((name + SCALE_SUFFIX, scale_dtype, (tensor.shape[0], 1)))
    start, target = lay_out(contents, header.metadata)
    placed = {tensor.name: tensor for tensor in target.tensors}
    tensors = tuple(
        TensorPlan(
            tensor, placed[name], placed[name + SCALE_SUFFIX] if to_codes else None, changes.get(tensor.name)
        )
        for tensor, name, to_codes in made
    )
    return ShardPlan(shard, path, source.written_as(shard), start, target, tensors)
