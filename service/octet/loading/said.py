"""What a checkpoint's `quantization_config` says, read as vLLM reads it, whoever wrote it.

Values of other types than vLLM expects would end its start-up with a traceback; here they are one line.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from octet.engine.vllm import formats
from octet.engine.vllm.formats import FormatPair
from octet.loading.naming import names_output_layer

COMPRESSED_TENSORS = "compressed-tensors"

KEY = "quantization_config"

_Value = TypeVar("_Value")

_STRATEGIES = ("tensor", "channel", "group", "block", "token", "tensor_group", "attn_head")


@dataclass(frozen=True, slots=True)
class Numbers:
    """How weights or activations are quantized, in compressed-tensors' words.

    Attributes:
        bits: length of a code.
        kind: "float" or "int".
        symmetric: whether zero is a code's zero.
        strategy: what has a scale of its own: "tensor", "channel", "token", "block", "group", ...
        dynamic: whether scales are computed while the model runs.
        block: rows and columns of a block; None with other strategies.
    """

    bits: int
    kind: str
    symmetric: bool
    strategy: str
    dynamic: bool
    block: tuple[int, int] | None

    @property
    def format(self) -> str:
        """Name of the number format, such as "e4m3" or "int8"; compressed-tensors' 8-bit float is E4M3."""
        return "e4m3" if (self.bits, self.kind) == (8, "float") else f"{self.kind}{self.bits}"


@dataclass(frozen=True, slots=True)
class Group:
    """Layers that are quantized alike.

    Attributes:
        targets: their names, "re:" and a regular expression, or names of their classes.
        weights: how their weights are stored.
        activations: how their inputs are quantized; None where they are not.
        format: how codes are packed, such as "float-quantized"; "" where nothing says so.
    """

    targets: tuple[str, ...]
    weights: Numbers
    activations: Numbers | None
    format: str


@dataclass(frozen=True, slots=True)
class Said:
    """A `quantization_config`.

    Attributes:
        method: its quant_method, spelled as vLLM spells it.
        format: of all groups together, "" where nothing says so.
        groups: of compressed-tensors; those of attention, which vLLM passes over, are left out.
        ignore: layers that stay as they are, in the terms of targets.
        pair: the formats, where the method is Octet's own.
        vocabulary: whether Octet's own method says that the output layer is quantized.
        kv_cache: how the KV cache is quantized; None where it is not.
    """

    method: str
    format: str = ""
    groups: tuple[Group, ...] = ()
    ignore: tuple[str, ...] = ()
    pair: FormatPair | None = None
    vocabulary: bool = False
    kv_cache: Numbers | None = None

    @property
    def names_output_layer(self) -> bool:
        """Whether the output layer is said to be stored as codes.

        To vLLM that layer is no "Linear": compressed-tensors has to name it, where transformers would not
        need it to.
        """
        if self.pair is not None:
            return self.vocabulary
        targets = [target for group in self.groups for target in group.targets]
        return names_output_layer(targets) and not names_output_layer(self.ignore)


def find(config: Mapping[str, Any]) -> tuple[str, Any]:
    """What a model's config.json says of quantization, and the path of the key that says it.

    vLLM looks there: at the top, under the old name, and in the language model's part. The value is None
    where no key says anything.
    """
    text = config.get("text_config")
    places = [("", config), *([("text_config.", text)] if isinstance(text, Mapping) else [])]
    for path, place in places:
        for key in (KEY, "compression_config"):
            if place.get(key) is not None:
                return f"{path}{key}", place[key]
    return KEY, None


def read(config: object, path: str = KEY) -> Said:
    """Reads a `quantization_config`.

    Args:
        config: its JSON value.
        path: the key that holds it, for messages.

    Raises:
        ValueError: vLLM could not read it. The message is one line that begins with the path of the value.
    """
    known = _object(config, path)
    method = _text(known.get("quant_method", ""), f"{path}.quant_method")
    method = method.lower().replace("compressed_tensors", COMPRESSED_TENSORS)
    if not method and "producer" not in known and "quantization" not in known:  # as ModelOpt writes
        raise ValueError(f"{path}.quant_method: is missing")
    if method == formats.METHOD:
        pair, ignore = formats.read_config(known)
        return Said(method, ignore=tuple(ignore), pair=pair, vocabulary=known.get("vocabulary") is True)
    if method != COMPRESSED_TENSORS:
        return Said(method)
    return _compressed_tensors(known, path)


def _compressed_tensors(config: Mapping[str, Any], path: str) -> Said:
    groups = _object(config.get("config_groups", {}), f"{path}.config_groups")
    packed = _optional(_text, config.get("format"), f"{path}.format") or ""
    read_groups = [_group(value, f"{path}.config_groups.{name}", packed) for name, value in groups.items()]
    _optional(_object, config.get("transform_config"), f"{path}.transform_config")
    sparsity = _optional(_object, config.get("sparsity_config"), f"{path}.sparsity_config") or {}
    if sparsity.get("targets"):
        raise ValueError(f"{path}.sparsity_config: compressed-tensors reads no sparse weights any more")
    return Said(
        COMPRESSED_TENSORS,
        format=packed,
        groups=tuple(group for group in read_groups if group is not None),
        ignore=_names(config.get("ignore", []), f"{path}.ignore"),
        kv_cache=_optional(_numbers, config.get("kv_cache_scheme"), f"{path}.kv_cache_scheme"),
    )


def _group(value: object, path: str, packed: str) -> Group | None:
    """A group of layers; None for one of attention alone."""
    config = _object(value, path)
    targets = _names(config.get("targets"), f"{path}.targets")
    if len(targets) == 1 and targets[0].endswith("Attention"):
        return None
    return Group(
        targets,
        weights=_numbers(config.get("weights"), f"{path}.weights"),
        activations=_optional(_numbers, config.get("input_activations") or None, f"{path}.input_activations"),
        format=_optional(_text, config.get("format"), f"{path}.format") or packed,
    )


def _numbers(value: object, path: str) -> Numbers:
    """compressed-tensors' QuantizationArgs, with its defaults."""
    config = _object(value, path)
    size = _optional(_whole, config.get("group_size"), f"{path}.group_size")
    strategy = _optional(_text, config.get("strategy"), f"{path}.strategy")
    if strategy is None:
        strategy = "tensor" if size is None else "channel" if size == -1 else "group"
    if strategy.lower() not in _STRATEGIES:
        raise ValueError(f"{path}.strategy: {strategy!r} is none of {', '.join(_STRATEGIES)}")
    kind = _text(config.get("type", "int"), f"{path}.type").lower()
    if kind not in ("int", "float"):
        raise ValueError(f"{path}.type: {kind!r} is neither 'int' nor 'float'")
    dynamic = config.get("dynamic", False)
    if dynamic != "local":
        _truth(dynamic, f"{path}.dynamic")
    return Numbers(
        bits=_whole(config.get("num_bits", 8), f"{path}.num_bits"),
        kind=kind,
        symmetric=_truth(config.get("symmetric", True), f"{path}.symmetric"),
        strategy=strategy.lower(),
        dynamic=bool(dynamic),
        block=_optional(_block, config.get("block_structure"), f"{path}.block_structure"),
    )


def _block(value: object, path: str) -> tuple[int, int]:
    sizes = value.split("x") if isinstance(value, str) else value
    if not isinstance(sizes, list) or len(sizes) != 2 or not all(str(size).isdecimal() for size in sizes):
        raise ValueError(f"{path}: is not a list of two numbers")
    rows, columns = map(int, sizes)
    if rows == 0 or columns == 0:
        raise ValueError(f"{path}: a block has no size")
    return rows, columns


def _names(value: object, path: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{path}: is not a list of names")
    return tuple(value)


def _wrong(path: str, what: str) -> ValueError:
    return ValueError(f"{path}: {what}")


def _object(value: object, path: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(path, "is no object")
    return value


def _text(value: object, path: str) -> str:
    if not isinstance(value, str):
        raise _wrong(path, "is no text")
    return value


def _whole(value: object, path: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(path, "is no whole number")
    return value


def _truth(value: object, path: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(path, "is neither true nor false")
    return value


def _optional(read: Callable[[object, str], _Value], value: object, path: str) -> _Value | None:
    return None if value is None else read(value, path)
