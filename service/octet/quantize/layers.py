"""Linear layers of a checkpoint: which tensors hold their weights, and which of them stay as they are."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from octet.quantize.safetensors_file import ITEM_SIZES, StoredTensor

WEIGHT = ".weight"
"""What the name of a linear layer's weight ends with."""

OUTPUT_LAYER = "lm_head"
"""Name of the layer that makes logits, the last one of every model that has one."""

_ROUTERS = frozenset({"gate", "router", "shared_expert_gate", "wg"})
# What a linear attention forgets and takes in: a few numbers for each token, which go through exponents.
_DECAYS = frozenset({"in_proj_a", "in_proj_b", "in_proj_ba"})
_SMALLEST = 16


@dataclass(frozen=True, slots=True)
class Stack:
    """How the matrices of a mixture's experts lie in one tensor [experts, ., .].

    Attributes:
        parts: names of the linear layers that each expert has in it, one after the other along the outputs.
        transposed: whether a matrix lies as [in, out], not as [out, in].
        trouble: why vLLM could not load it in FP8; None where it can.
    """

    parts: tuple[str, ...]
    transposed: bool
    trouble: str | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """A tensor that holds the weight of a linear layer, or of one in each of a mixture's experts.

    Attributes:
        tensor: its name.
        order: places it among the model's layers.
        modules: names of the linear layers, as `ignore` has them. Of a stack: expert by expert. Of one that
            stays, patterns may follow.
        kept: why it stays as it is, whatever the options say; None where they decide.
        stack: how a stack lies; None of a matrix.
    """

    tensor: str
    order: tuple[int, ...]
    modules: tuple[str, ...]
    kept: str | None = None
    stack: Stack | None = None


@dataclass(frozen=True, slots=True)
class Anatomy:
    """What a checkpoint is made of.

    Attributes:
        layers: its linear layers, in the model's order.
        unknown: tensors that look like weights of linear layers, and of which nothing is known.
        output: whether the model has an output layer, `lm_head`, in the checkpoint or sharing its embedding.
        loads_output: whether vLLM is known to have a layer for it, apart from the embedding.
    """

    layers: tuple[Layer, ...]
    unknown: tuple[str, ...]
    output: bool
    loads_output: bool


@dataclass(frozen=True, slots=True)
class Matrix:
    """The weight of one linear layer, within a stored tensor.

    Attributes:
        module: the layer's name.
        tensor: its place: of the stored tensor's name and dtype, [out, in], `offset` that of its first value.
        columns: None where its rows follow each other. Otherwise it lies as [in, columns], with its output
            channels among others in a row.
    """

    module: str
    tensor: StoredTensor
    columns: int | None = None


def matrix_name(tensor: StoredTensor) -> str | None:
    """The module that a matrix belongs to; None for what is no module's matrix."""
    if len(tensor.shape) != 2 or not tensor.name.endswith(WEIGHT):
        return None
    return tensor.name.removesuffix(WEIGHT)


def needs_a_place(tensor: StoredTensor) -> bool:
    """Whether a tensor looks as if linear layers had their weights in it, so that one has to know."""
    if matrix_name(tensor) is not None:
        return "embed" not in tensor.name
    return len(tensor.shape) > 1 and "expert" in tensor.name and not tensor.name.endswith("bias")


def aside(module: str, shape: tuple[int, ...]) -> str | None:
    """Why a linear layer of a decoder block stays as it is, by its name below the block and its shape [out,
    in]; None where nothing speaks against it.
    """
    *parents, name = module.split(".")
    if name in _ROUTERS or any("router" in part for part in (*parents, name)):
        return "it routes"
    if name in _DECAYS:
        return "it sets how fast a linear attention forgets"
    if min(shape) < _SMALLEST:
        return f"it is too small: {list(shape)}"
    return None


def stacked_modules(tensor: str, stack: Stack, experts: int) -> tuple[str, ...]:
    """Names of the linear layers in a stack of experts, as vLLM looks for them."""
    parent = tensor.removesuffix(WEIGHT).rpartition(".")[0]
    if not parent.endswith("experts"):
        parent = f"{parent}.experts"
    return tuple(f"{parent}.{expert}.{part}" for expert in range(experts) for part in stack.parts)


def matrices(layer: Layer, stack: Stack, tensor: StoredTensor) -> Iterator[Matrix]:
    """The experts' weights in a tensor, in the order of the layer's modules."""
    experts, *sizes = tensor.shape
    inputs, outputs = sizes if stack.transposed else reversed(sizes)
    rows = outputs // len(stack.parts)
    item = ITEM_SIZES[tensor.dtype]
    step = item if stack.transposed else item * inputs  # From one output channel to the next.
    names = iter(layer.modules)
    for expert in range(experts):
        for part in range(len(stack.parts)):
            offset = tensor.offset + expert * inputs * outputs * item + part * rows * step
            place = StoredTensor(tensor.name, tensor.dtype, (rows, inputs), offset)
            yield Matrix(next(names), place, outputs if stack.transposed else None)


def by_pattern(pattern: str, tensors: Iterable[StoredTensor]) -> Anatomy:
    """What is known of a checkpoint whose linear layers are those that a regular expression matches, from
    the start of their names: their routers stay, and so do all other matrices.

    Raises:
        ValueError: it is no regular expression, or it matches a tensor that is no matrix but more.
    """
    try:
        blocks = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern} is no regular expression: {error}") from error
    layers = []
    for number, tensor in enumerate(sorted(tensors, key=lambda tensor: _natural(tensor.name))):
        match = blocks.match(tensor.name.removesuffix(WEIGHT))
        if match and len(tensor.shape) > 2 and "expert" in tensor.name:
            raise ValueError(
                f"only a family tells how {tensor.name} {list(tensor.shape)} lies: name it by --like"
            )
        module = matrix_name(tensor)
        if module is None or "embed" in module:
            continue
        kept = aside(module, tensor.shape) if match else "no --blocks names it"
        layers.append(Layer(tensor.name, (number,), (module,), kept))
    own = any(layer.modules[0].split(".")[-1] == OUTPUT_LAYER for layer in layers)
    return Anatomy(tuple(layers), (), output=own, loads_output=own)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]
