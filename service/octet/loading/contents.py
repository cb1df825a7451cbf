"""A checkpoint as the rules look at it: what its config says, and what its headers say."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from octet.engine.vllm import formats
from octet.loading import naming
from octet.loading.naming import Layer
from octet.loading.said import Group, Numbers, Said

WEIGHT, SCALE, INPUT_SCALE = ".weight", ".weight_scale", ".input_scale"

CODE_DTYPES = tuple(formats.SAFETENSORS_DTYPES.values())
"""Dtypes of codes, in safetensors' names."""

# Classes of vLLM's linear layers; a target of compressed-tensors names a class by a part of its name.
_CLASSES = ("ColumnParallelLinear", "MergedColumnParallelLinear", "QKVParallelLinear", "RowParallelLinear")


class StoredTensor(Protocol):
    """A tensor as a file's header describes it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def dtype(self) -> str:
        """Safetensors' name of its dtype."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""


@dataclass(frozen=True, slots=True)
class Renaming:
    """What vLLM calls what a checkpoint names.

    Attributes:
        tensor: vLLM's name of a tensor; None for one that it passes over.
        said: vLLM's name of a layer that `quantization_config` names; None for one that it passes over.
    """

    tensor: Callable[[str], str | None] = lambda name: name
    said: Callable[[str], str | None] = lambda name: name


class Contents:
    """A checkpoint's config and its tensors, put together as vLLM would put them together."""

    def __init__(
        self,
        config: Mapping[str, Any],
        said: Said | None,
        tensors: Mapping[str, StoredTensor],
        renaming: Renaming | None = None,
    ) -> None:
        """Takes a checkpoint.

        Args:
            config: its config.json.
            said: what that says of quantization; None when nothing.
            tensors: what its files hold, by name.
            renaming: vLLM's; without it names are taken to be vLLM's own.
        """
        self.config = config
        self.said = said
        self.tensors = tensors
        self._renaming = renaming or Renaming()

    @cached_property
    def codes(self) -> list[StoredTensor]:
        """The tensors that are stored as FP8 codes."""
        return [tensor for tensor in self.tensors.values() if tensor.dtype in CODE_DTYPES]

    @cached_property
    def layers(self) -> list[Layer]:
        """What may be linear layers, but for the output layer: what has a matrix as its weight."""
        modules = [
            name.removesuffix(WEIGHT)
            for name, tensor in self.tensors.items()
            if name.endswith(WEIGHT) and len(tensor.shape) == 2
        ]
        return naming.layers(
            (module for module in modules if not module.endswith(formats.OUTPUT_LAYER)), self._rename
        )

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The groups of layers that are quantized alike, whichever method says so."""
        if self.said is None:
            return ()
        if self.said.pair is None:
            return self.said.groups
        weights = Numbers(8, "float", True, "channel", False, None)
        return (
            Group(("Linear",), weights, Numbers(8, "float", True, "token", True, None), "float-quantized"),
        )

    @cached_property
    def ignore(self) -> list[str]:
        """The names that stay unquantized, as vLLM has them."""
        return self._named(self.said.ignore) if self.said else []

    @cached_property
    def text_layers(self) -> int | None:
        """How many layers the language model has; what lies beyond belongs to a model that drafts."""
        text = self.config.get("text_config")
        for place in (text if isinstance(text, Mapping) else {}, self.config):
            count = place.get("num_hidden_layers")
            if isinstance(count, int):
                return count
        return None

    def coded(self, module: str) -> bool:
        """Whether a module's weight is stored as FP8 codes."""
        return self.tensors[module + WEIGHT].dtype in CODE_DTYPES

    def group_of(self, layer: Layer) -> Group | None:
        """The group that a layer belongs to, whether or not it is ignored; None where no target names it."""
        for group in self.groups:
            targets = self._named(group.targets)
            if len(naming.ignored_parts(layer, targets)) == len(layer.parts):
                return group
        return next((group for group in self.groups if any(map(_names_linear, group.targets))), None)

    def _named(self, names: Iterable[str]) -> list[str]:
        return list(self._renamed(names))

    def _renamed(self, names: Iterable[str]) -> Iterator[str]:
        for name in names:
            # Patterns stay, and so do what compressed-tensors takes for names of classes.
            if name.startswith(naming.REGEX) or (self.said and self.said.pair is None and "." not in name):
                yield name
            elif (renamed := self._renaming.said(name)) is not None:
                yield renamed

    def _rename(self, module: str) -> str | None:
        renamed = self._renaming.tensor(module + WEIGHT)
        return None if renamed is None else renamed.removesuffix(WEIGHT)


def _names_linear(target: str) -> bool:
    """Whether a target names the classes of linear layers."""
    if target.startswith(naming.REGEX):
        return all(naming.matches(target, name) for name in _CLASSES)
    return all(target.lower() in name.lower() for name in _CLASSES)
