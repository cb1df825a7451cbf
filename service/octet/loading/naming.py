"""Names of layers: those that vLLM loads as one, and patterns that name layers."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from octet.engine.vllm.formats import OUTPUT_LAYER

REGEX = "re:"
"""What begins a pattern that is a regular expression; it has to match from a name's beginning."""

FUSED = (
    ("qkv_proj", ("q_proj", "k_proj", "v_proj")),
    ("qkv_proj", ("query", "key", "value")),
    ("gate_up_proj", ("gate_proj", "up_proj")),
    ("gate_up_proj", ("w1", "w3")),
    ("gate_up_proj", ("c_fc_0", "c_fc_1")),
    ("w13", ("w1", "w3")),
    ("merged_qkv", ("wq", "wk", "wv")),
    ("fused_qkv_a_proj", ("q_a_proj", "kv_a_proj_with_mqa")),
    ("in_proj_qkvz", ("in_proj_qkv", "in_proj_z")),
    ("in_proj_ba", ("in_proj_b", "in_proj_a")),
)
"""Layers that vLLM makes of several: its name for them, and the checkpoint's names of their parts.

Which of two names a model uses does not matter: a pattern that matches neither, or all parts, is read alike.
"""

_EXPERT = re.compile(r"(.*\.experts)\.\d+\.[^.]+")


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer as vLLM builds it.

    Attributes:
        names: what vLLM may call it; a single one, unless it is of several parts.
        parts: vLLM's names of the modules that it is made of, by the checkpoint's names; one for a layer that
            is stored as it is built.
        experts: whether it is a mixture's experts, all of them.
    """

    names: tuple[str, ...]
    parts: Mapping[str, str]
    experts: bool = False


def layers(modules: Iterable[str], rename: Callable[[str], str | None] = lambda name: name) -> list[Layer]:
    """Puts modules together that vLLM loads as one layer.

    Args:
        modules: a checkpoint's names of its linear layers.
        rename: what vLLM calls a module; None for one that it does not load.
    """
    names = {module: renamed for module in modules if (renamed := rename(module)) is not None}
    parents: dict[str, dict[str, str]] = {}
    for module, name in names.items():
        match = _EXPERT.fullmatch(name)
        parents.setdefault(match[1] if match else name.rpartition(".")[0], {})[module] = name
    found = []
    for parent, members in parents.items():
        if parent.endswith(".experts") and all(map(_EXPERT.fullmatch, members.values())):
            found.append(Layer((parent,), members, experts=True))
            continue
        found += _fuse(parent, members)
    return found


def _fuse(parent: str, members: Mapping[str, str]) -> list[Layer]:
    left = {name.rpartition(".")[2]: module for module, name in members.items()}
    found = []
    for parts in dict.fromkeys(parts for _, parts in FUSED):
        if len(left.keys() & set(parts)) < 2:
            continue
        names = tuple(_join(parent, fused) for fused, of in FUSED if of == parts)
        there = [part for part in parts if part in left]
        found.append(Layer(names, {left.pop(part): _join(parent, part) for part in there}))
    found += [Layer((members[module],), {module: members[module]}) for module in left.values()]
    return found


def _join(parent: str, name: str) -> str:
    return f"{parent}.{name}" if parent else name


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern names the layer `name`; one that is no regular expression after "re:" names none."""
    if not pattern.startswith(REGEX):
        return pattern == name
    try:
        return re.match(pattern.removeprefix(REGEX), name) is not None
    except re.error:
        return False


def names_output_layer(patterns: Iterable[str]) -> bool:
    """Whether a pattern names the layer that makes logits, as vLLM calls it."""
    names = (OUTPUT_LAYER, f"language_model.{OUTPUT_LAYER}")
    return any(matches(pattern, name) for pattern in patterns for name in names)


def flaw(pattern: str) -> str | None:
    """Why a pattern is no regular expression after its "re:"; None when it is, or names one layer."""
    if not pattern.startswith(REGEX):
        return None
    try:
        re.compile(pattern.removeprefix(REGEX))
    except (re.error, OverflowError, RecursionError) as error:
        return str(error)
    return None


def ignored_parts(layer: Layer, patterns: Sequence[str]) -> list[str]:
    """The checkpoint's names of those parts of a layer that patterns name, as vLLM reads them.

    A pattern that matches the layer's own name goes before those that match its parts; of experts vLLM looks
    at the first, and takes the others to be like it.
    """
    if any(matches(pattern, name) for pattern in patterns for name in layer.names):
        return list(layer.parts)
    return [module for module, name in layer.parts.items() if any(matches(p, name) for p in patterns)]


def kind(module: str) -> str:
    """A module's name with "*" for the numbers in it."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", module)
