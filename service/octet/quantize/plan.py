"""What becomes of each tensor, decided before anything is written: headers are read, data is not."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from octet.quantize import architectures
from octet.quantize.anatomy import UnknownModelError, ask
from octet.quantize.errors import QuantizeError
from octet.quantize.floats import FLOAT_DTYPES
from octet.quantize.layers import OUTPUT_LAYER, WEIGHT, Anatomy, Layer, by_pattern, matrices
from octet.quantize.merge import Change
from octet.quantize.options import Format, Options
from octet.quantize.safetensors_file import Header, StoredTensor, lay_out
from octet.quantize.source import CONFIG, Source

SCALE_SUFFIX = "_scale"
"""A weight `X.weight` has its scale in `X.weight_scale`."""

# What names of a language model within another begin with in published checkpoints; its output layer's too.
_NESTED = "language_model."


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """What becomes of one tensor, or of one expert's matrix in a tensor that holds those of all.

    An embedding that an output layer shares has two: it is copied, and becomes that layer's codes.

    Attributes:
        source: where it lies.
        target: where it, or its codes, will lie; no other one's target has this name.
        scale: where its scale will lie; None for a tensor that is copied.
        change: what an adapter does to it first; None where it stays.
        columns: None where the source's rows follow each other. Otherwise a matrix [out, in] lies as [in,
            columns], from its offset on, with its output channels among others in a row.
    """

    source: StoredTensor
    target: StoredTensor
    scale: StoredTensor | None
    change: Change | None = None
    columns: int | None = None


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
        kept: linear layers that stay as they are, in the order in which the model holds them, under the names
            that the checkpoint gives them, each with the reason.
        vocabulary: whether the output layer is quantized.
    """

    shards: tuple[ShardPlan, ...]
    kept: Mapping[str, str]
    vocabulary: bool

    @property
    def ignored(self) -> tuple[str, ...]:
        """Names of the layers that stay as they are."""
        return tuple(self.kept)


def make_plan(source: Source, options: Options) -> Plan:
    """Decides which tensors are quantized, as llm-compressor does, and lays the new files out.

    Raises:
        QuantizeError: nothing tells which layers are linear, a file is damaged, a tensor that is to be
            quantized is of a dtype that cannot be, or there is nothing to quantize.
    """
    headers = {shard: source.files.header(shard) for shard in source.files.names}
    _check_index(source, headers)
    tensors = [tensor for header in headers.values() for tensor in header.tensors]
    anatomy = _anatomy(source, tensors, options)
    chosen, kept = _choose(source, anatomy, options)
    outputs = any(m.endswith(OUTPUT_LAYER) for layer in anatomy.layers for m in layer.modules)
    if not chosen and not options.vocabulary:
        raise QuantizeError(f"{source.directory}: no linear layer is left to quantize")
    if options.vocabulary and not anatomy.loads_output:
        raise QuantizeError(
            f"{source.directory}: the output layer of {source.architecture} shares the embedding, and vLLM "
            "is not known to have one of its own; octet serve --fp8-vocabulary quantizes it when it is loaded"
        )
    tied = _tied_output(source, tensors) if options.vocabulary and not outputs else None
    changes = source.changes(tensors)
    for layer in chosen.values():
        if layer.stack is not None and layer.tensor in changes:
            raise QuantizeError(
                f"{source.directory}: {layer.tensor} holds all experts; adapters change matrices"
            )
    shards = tuple(
        _plan_shard(source, name, header, chosen, tied, changes, options) for name, header in headers.items()
    )
    if anatomy.output and not outputs and tied is None:
        # It is a linear layer all the same.
        kept[OUTPUT_LAYER] = "it shares the embedding"
    return Plan(shards, kept, options.vocabulary)


def _anatomy(source: Source, tensors: list[StoredTensor], options: Options) -> Anatomy:
    """The checkpoint's linear layers: by pattern, out of the table, or as transformers builds the model."""
    if options.blocks is not None:
        try:
            return by_pattern(options.blocks, tensors)
        except ValueError as error:
            raise QuantizeError(f"--blocks: {error}") from error
    family = options.like or source.architecture
    known = architectures.find(family)
    anatomy = architectures.anatomy(known, tensors) if known else None
    if anatomy and not anatomy.unknown:
        return anatomy
    try:
        return ask(family, source.config, tensors)
    except UnknownModelError as error:
        if anatomy:
            return anatomy
        raise QuantizeError(
            f"{source.directory / CONFIG}: {error}; --like names a family that it is built as, and --blocks "
            "its linear layers"
        ) from error


def _choose(source: Source, anatomy: Anatomy, options: Options) -> tuple[dict[str, Layer], dict[str, str]]:
    """The layers to quantize, by their tensors' names, and why each of the others stays."""
    chosen: dict[str, Layer] = {}
    kept: dict[str, str] = {}
    for layer in anatomy.layers:
        reasons = [_why_kept(module, layer.kept, options) for module in layer.modules]
        if None not in reasons:
            kept |= dict(zip(layer.modules, map(str, reasons), strict=True))
        elif any(reasons):
            raise QuantizeError(
                f"{source.directory}: {layer.tensor} holds the layers {layer.modules[0]} to "
                f"{layer.modules[-1]}, and --targets and --ignore take some of them only"
            )
        else:
            _check_servable(source, layer, options)
            chosen[layer.tensor] = layer
    for name in anatomy.unknown:
        module = name.removesuffix(WEIGHT)
        reason = _ignored(module, options)
        if reason is None:
            # Left alone, it would be a layer that is not quantized and that nothing says so of.
            raise QuantizeError(
                f"{source.directory}: {options.like or source.architecture} is not known to have the matrix "
                f"{name}; --ignore {module} keeps it as it is"
            )
        kept[module] = reason
    return chosen, kept


def _check_servable(source: Source, layer: Layer, options: Options) -> None:
    """Raises QuantizeError where vLLM has no way to serve experts as they would become."""
    trouble = layer.stack and layer.stack.trouble
    if not options.weights is options.activations is Format.E4M3 and ".experts." in layer.modules[0]:
        trouble = "Octet's own formats hold no mixtures of experts"
    if trouble:
        raise QuantizeError(
            f"{source.directory}: {layer.tensor}: {trouble}; --ignore 're:.*experts.*' keeps them as they are"
        )


def _why_kept(module: str, kept: str | None, options: Options) -> str | None:
    """Why a layer stays as it is; None for one that is quantized."""
    if module.endswith(OUTPUT_LAYER):
        return None if options.vocabulary else "the output layer, which --vocabulary quantizes"
    if kept is not None:
        return kept
    if not any(_matches(module, target) for target in options.targets):
        return "no --targets names it"
    return _ignored(module, options)


def _ignored(module: str, options: Options) -> str | None:
    return next((f"ignored by {pattern}" for pattern in options.ignore if _matches(module, pattern)), None)


def _matches(module: str, pattern: str) -> bool:
    """Whether llm-compressor would match a linear layer: by regular expression, class or name."""
    if pattern.startswith("re:"):
        return re.match(pattern.removeprefix("re:"), module) is not None
    return pattern in ("Linear", module)


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


@dataclass(frozen=True, slots=True)
class _TiedOutput:
    """An output layer that shares the embedding: what that is called, and what the layer will be."""

    embedding: str
    weight: str


def _tied_output(source: Source, tensors: Iterable[StoredTensor]) -> _TiedOutput:
    found = architectures.shared_embeddings(tensor.name for tensor in tensors)
    if len(found) != 1:
        raise QuantizeError(
            f"{source.directory} holds no output layer, and {len(found) or 'no'} embeddings that it could "
            "share"
        )
    prefix = _NESTED if found[0].startswith(_NESTED) else ""
    return _TiedOutput(found[0], f"{prefix}{OUTPUT_LAYER}{WEIGHT}")


@dataclass(frozen=True, slots=True)
class _Made:
    """A tensor that is to be written: out of what, by which name, as codes or as it is."""

    source: StoredTensor
    name: str
    to_codes: bool
    columns: int | None = None


def _made(header: Header, chosen: Mapping[str, Layer], tied: _TiedOutput | None) -> Iterator[_Made]:
    for tensor in header.tensors:
        layer = chosen.get(tensor.name)
        if layer is None:
            yield _Made(tensor, tensor.name, to_codes=False)
        elif layer.stack is None:
            yield _Made(tensor, tensor.name, to_codes=True)
        else:
            for matrix in matrices(layer, layer.stack, tensor):
                yield _Made(matrix.tensor, f"{matrix.module}{WEIGHT}", to_codes=True, columns=matrix.columns)
    for tensor in header.tensors:
        if tied is not None and tensor.name == tied.embedding:
            yield _Made(tensor, tied.weight, to_codes=True)


def _plan_shard(
    source: Source,
    shard: str,
    header: Header,
    chosen: Mapping[str, Layer],
    tied: _TiedOutput | None,
    changes: Mapping[str, Change],
    options: Options,
) -> ShardPlan:
    path = source.files.path(shard)
    made = list(_made(header, chosen, tied))
    contents: list[tuple[str, str, tuple[int, ...]]] = []
    for each in made:
        tensor = each.source
        if not each.to_codes:
            contents.append((each.name, tensor.dtype, tensor.shape))
            continue
        if tensor.dtype not in FLOAT_DTYPES:
            already = "is quantized already" if tensor.dtype.startswith("F8") else "cannot be quantized"
            raise QuantizeError(f"{path}: tensor {tensor.name} {already}: its dtype is {tensor.dtype}")
        contents.append((each.name, options.weights.dtype_name, tensor.shape))
        # What an adapter changes is float32, and quantized as such.
        weight_dtype = "F32" if tensor.name in changes else tensor.dtype
        scale_dtype = options.weights.scale_dtype_name(weight_dtype)
        contents.append((each.name + SCALE_SUFFIX, scale_dtype, (tensor.shape[0], 1)))
    start, target = lay_out(contents, header.metadata)
    placed = {tensor.name: tensor for tensor in target.tensors}
    tensors = tuple(
        TensorPlan(
            each.source,
            placed[each.name],
            placed[each.name + SCALE_SUFFIX] if each.to_codes else None,
            changes.get(each.source.name),
            each.columns,
        )
        for each in made
    )
    return ShardPlan(shard, path, source.written_as(shard), start, target, tensors)
