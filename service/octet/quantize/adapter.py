"""A LoRA adapter of PEFT's that is merged into the checkpoint while that is quantized.

Every tensor of the adapter has to find its place; what its config asks for is done, or refused by name.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from octet.quantize.errors import QuantizeError
from octet.quantize.floats import FLOAT_DTYPES, to_float32
from octet.quantize.merge import Change, LowRank, Replacement
from octet.quantize.safetensors_file import StoredTensor, read_header
from octet.weight_index import CheckpointError, read_json

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

_PREFIX = "base_model.model."
_PART = re.compile(
    r"(?P<module>.+)\.lora_(?P<part>A|B|embedding_A|embedding_B|magnitude_vector)(\.default)?(\.weight)?"
)
_WRAPPERS = re.compile(r"\.(modules_to_save(\.default)?|base_layer)(?=\.)")

# What names in front of a numbered layer tell one of a model's towers by; the language model has none.
_TOWERS = ("vision", "visual", "audio")

_USED = {"r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern"}

# What says how the adapter was trained, or of which the tensors tell.
_OF_NO_EFFECT = {
    *("peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision"),
    *("inference_mode", "runtime_config", "lora_dropout", "bias", "modules_to_save", "target_modules"),
    *("exclude_modules", "layers_to_transform", "layers_pattern", "ensure_weight_tying"),
    *("eva_config", "megatron_core", "qalora_group_size", "init_lora_weights"),
}

# Any other one takes something off the base's weights before training, which the adapter alone does not tell.
_INITIALISATIONS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(slots=True)
class _Parts:
    """The tensors of the adapter that change one tensor of the base, by what they are."""

    low_rank: dict[str, StoredTensor]
    replacement: StoredTensor | None = None

    def names(self) -> list[str]:
        whole = [] if self.replacement is None else [self.replacement.name]
        return [*whole, *(tensor.name for tensor in self.low_rank.values())]


class Adapter:
    """An adapter in a folder.

    Attributes:
        folder: where it is.
    """

    def __init__(self, folder: Path) -> None:
        """Reads its config and the header of its weights.

        Raises:
            QuantizeError: they are damaged, or ask for what is not merged.
        """
        self.folder = folder
        try:
            self._config = read_json(folder / CONFIG)
        except CheckpointError as error:
            raise QuantizeError(str(error)) from error
        self._file = folder / WEIGHTS
        self._check_config()
        if not self._file.is_file() and (folder / "adapter_model.bin").is_file():
            raise QuantizeError(f"{folder} holds adapter_model.bin; save the adapter as {WEIGHTS}")
        self._parts = _by_target(read_header(self._file).tensors)
        if not self._parts:
            raise QuantizeError(f"{self._file} holds no tensors")

    def identity(self) -> str:
        """What tells it from another one, and from itself once it is changed."""
        states = [(self.folder / name).stat() for name in (CONFIG, WEIGHTS)]
        return " ".join(
            [str(self.folder.resolve()), *(f"{state.st_size} {state.st_mtime_ns}" for state in states)]
        )

    def changes(self, tensors: Iterable[StoredTensor], tied: bool) -> dict[str, Change]:
        """What it does to a checkpoint, by the names of the tensors that it changes.

        Args:
            tensors: all of the checkpoint's.
            tied: whether its config says that the output layer shares the embedding.

        Raises:
            QuantizeError: a tensor of the adapter does not belong to this checkpoint.
        """
        base = _Base(tensors, tied)
        placed: dict[str, str] = {}
        found: dict[str, Change] = {}
        for target, parts in self._parts.items():
            tensor = base.find(target)
            if tensor is None:
                self._check_shared(target, parts, base)
                continue
            if tensor.name in placed:
                raise self._wrong(parts, f"is for {tensor.name}, as {placed[tensor.name]} is")
            placed[tensor.name] = parts.names()[0]
            found[tensor.name] = self._change(target, parts, tensor)
        if base.shared is not None and base.shared.name in found:
            for copy in base.copies:
                found[copy.name] = replace(found[base.shared.name], tensor=copy)
        return found

    def _check_config(self) -> None:
        config, path = self._config, self.folder / CONFIG
        if config.get("peft_type") != "LORA":
            raise QuantizeError(f"{path}: peft_type is {config.get('peft_type')!r}, and only LORA is merged")
        for key, value in config.items():
            if value and key not in _USED | _OF_NO_EFFECT:
                raise QuantizeError(f"{path}: {key} is {str(value)[:60]!r}, which is not merged here")
        start = config.get("init_lora_weights")
        if start not in _INITIALISATIONS:
            raise QuantizeError(
                f"{path}: init_lora_weights is {start!r}, which changes the base's weights too; convert the "
                "adapter to a plain one with PEFT"
            )
        for key in ("rank_pattern", "alpha_pattern"):
            if not isinstance(config.get(key) or {}, dict):
                raise QuantizeError(f"{path}: {key} is no object")
        for key in ("r", "lora_alpha"):
            if type(config.get(key)) not in (int, float):
                raise QuantizeError(f"{path}: {key} is {config.get(key)!r}, no number")

    def _change(self, target: str, parts: _Parts, tensor: StoredTensor) -> Change:
        if tensor.dtype not in FLOAT_DTYPES:
            raise self._wrong(parts, f"cannot be merged into {tensor.name}: its dtype is {tensor.dtype}")
        replacement = None
        if parts.replacement is not None:
            if parts.replacement.shape != tensor.shape:
                raise self._wrong(parts, _shapes(tensor, parts.replacement.shape))
            replacement = Replacement(self._file, self._numbers(parts.replacement))
        low_rank = self._low_rank(target, parts, tensor) if parts.low_rank else None
        return Change(tensor, replacement, low_rank)

    def _low_rank(self, target: str, parts: _Parts, tensor: StoredTensor) -> LowRank:
        given = parts.low_rank
        if given.keys() - {"magnitude_vector"} == {"A", "B"}:
            left, right = self._matrix(given["B"]), self._matrix(given["A"])
        elif given.keys() == {"embedding_A", "embedding_B"}:
            left, right = self._matrix(given["embedding_A"]).T, self._matrix(given["embedding_B"]).T
        else:
            raise self._wrong(
                parts, f"is not merged: of LoRA's tensors {target} has {', '.join(sorted(given))}"
            )
        shape = (left.shape[0], right.shape[1])
        if left.shape[1] != right.shape[0] or tensor.shape != shape:
            raise self._wrong(parts, _shapes(tensor, shape))
        module = target.removesuffix(".weight")
        rank = self._pattern("rank_pattern", module, "r")
        if rank != left.shape[1]:
            raise self._wrong(parts, f"is of rank {left.shape[1]}, and {CONFIG} says {rank}")
        alpha = self._pattern("alpha_pattern", module, "lora_alpha")
        scale = alpha / (math.sqrt(rank) if self._config.get("use_rslora") else rank)
        return LowRank(left, right, scale, self._lengths(parts, left.shape[0]))

    def _lengths(self, parts: _Parts, rows: int) -> "npt.NDArray[np.float32] | None":
        vector, wanted = parts.low_rank.get("magnitude_vector"), bool(self._config.get("use_dora"))
        if (vector is not None) != wanted:
            raise self._wrong(
                parts, f"{'lacks' if wanted else 'has'} a magnitude vector, and use_dora is {wanted}"
            )
        if vector is None:
            return None
        if math.prod(vector.shape) != rows:
            raise self._wrong(parts, f"has a magnitude vector of {list(vector.shape)} for {rows} rows")
        return self._read(vector).reshape(-1)

    def _pattern(self, key: str, module: str, default: str) -> float:
        """PEFT's rule: the first pattern that matches a name, or the end of one behind a dot, counts."""
        for pattern, value in (self._config.get(key) or {}).items():
            try:
                matches = re.match(rf"(.*\.)?({pattern})$", module)
            except re.error as error:
                raise QuantizeError(
                    f"{self.folder / CONFIG}: {key} has the bad pattern {pattern!r}"
                ) from error
            if matches:
                if type(value) not in (int, float):
                    raise QuantizeError(f"{self.folder / CONFIG}: {key} has {value!r} for {pattern!r}")
                return float(value)
        return float(self._config[default])

    def _matrix(self, tensor: StoredTensor) -> "npt.NDArray[np.float32]":
        if len(tensor.shape) != 2 or 0 in tensor.shape:
            raise QuantizeError(f"{self._file}: tensor {tensor.name} is {list(tensor.shape)}, no matrix")
        return self._read(tensor)

    def _read(self, tensor: StoredTensor) -> "npt.NDArray[np.float32]":
        import numpy as np

        data = Replacement(self._file, self._numbers(tensor)).read(0, tensor.size)
        values = to_float32(data, tensor.dtype).reshape(tensor.shape)
        if not np.isfinite(values).all():
            raise QuantizeError(f"{self._file}: tensor {tensor.name} holds NaN or an infinity")
        return values

    def _numbers(self, tensor: StoredTensor) -> StoredTensor:
        if tensor.dtype not in FLOAT_DTYPES:
            raise QuantizeError(
                f"{self._file}: tensor {tensor.name} cannot be merged: its dtype is {tensor.dtype}"
            )
        return tensor

    def _check_shared(self, target: str, parts: _Parts, base: "_Base") -> None:
        """Lets a copy pass of what the embedding becomes, for an output layer that shares that."""
        embedding = base.shared if target.endswith("lm_head.weight") else None
        if embedding is None:
            raise self._wrong(parts, "has no place: the base has no such tensor")
        same = next((other for name, other in self._parts.items() if base.find(name) is embedding), None)
        if same is None or not self._equal(parts, same):
            raise self._wrong(
                parts,
                f"cannot be merged: the base's output layer shares {embedding.name}, and would change alone",
            )

    def _equal(self, one: _Parts, other: _Parts) -> bool:
        mine, theirs = one.replacement, other.replacement
        if one.low_rank or other.low_rank or mine is None or theirs is None:
            return False
        if (mine.dtype, mine.shape) != (theirs.dtype, theirs.shape):
            return False
        step = 16 << 20
        first, second = Replacement(self._file, mine), Replacement(self._file, theirs)
        return all(
            first.read(at, min(step, mine.size - at)) == second.read(at, min(step, mine.size - at))
            for at in range(0, mine.size, step)
        )

    def _wrong(self, parts: _Parts, problem: str) -> QuantizeError:
        return QuantizeError(f"{self._file}: tensor {parts.names()[0]} {problem}")


def _by_target(tensors: Iterable[StoredTensor]) -> dict[str, _Parts]:
    """The adapter's tensors by the name that PEFT's model gives to what they change."""
    found: dict[str, _Parts] = {}
    for tensor in tensors:
        name = tensor.name.removeprefix(_PREFIX)
        if match := _PART.fullmatch(name):
            parts = found.setdefault(f"{match['module']}.weight", _Parts({}))
            parts.low_rank[match["part"]] = tensor
        else:
            found.setdefault(_WRAPPERS.sub("", name), _Parts({})).replacement = tensor
    return found


class _Base:
    """The tensors of the checkpoint, under the names by which an adapter may know them."""

    def __init__(self, tensors: Iterable[StoredTensor], tied: bool) -> None:
        from octet.quantize.architectures import shared_embeddings

        self._exact: dict[str, StoredTensor] = {tensor.name: tensor for tensor in tensors}
        embeddings = shared_embeddings(self._exact)
        outputs = [name for name in self._exact if name.endswith("lm_head.weight")]
        shares = len(embeddings) == 1 and (tied or not outputs)
        self.shared = self._exact[embeddings[0]] if shares else None
        """The embedding that the output layer shares, if it does."""
        self.copies = [self._exact.pop(name) for name in outputs] if shares else []
        """What the checkpoint stores of it under the output layer's name all the same."""
        self._by_place: dict[str, list[StoredTensor]] = {}
        for name, tensor in self._exact.items():
            self._by_place.setdefault(_place(name), []).append(tensor)

    def find(self, name: str) -> StoredTensor | None:
        """The tensor that a model calls `name`, and the checkpoint perhaps by another beginning."""
        if name in self._exact:
            return self._exact[name]
        found = self._by_place.get(_place(name), [])
        return found[0] if len(found) == 1 else None


def _place(name: str) -> str:
    """Which tensor of which tower a name means, however it begins: checkpoints and models differ in that."""
    parts = name.split(".")
    number = next((at for at, part in enumerate(parts) if part.isdigit()), None)
    begin = number - 1 if number else len(parts) - 2
    before = ".".join(parts[: max(begin, 0)])
    tower = next((tower for tower in _TOWERS if tower in before), "")
    return f"{'vision' if tower == 'visual' else tower}:{'.'.join(parts[max(begin, 0) :])}"


def _shapes(tensor: StoredTensor, shape: tuple[int, ...]) -> str:
    return f"is for another model: it makes {list(shape)} of {tensor.name}, which is {list(tensor.shape)}"
