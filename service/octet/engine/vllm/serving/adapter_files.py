"""What an adapter's files say, before vLLM reads them: whether it is one of the model's.

vLLM takes a tensor that is smaller than its place, and leaves out what has none, without a word.
"""

import re
import threading
from pathlib import Path
from typing import Any

from octet.errors import InvalidRequestError
from octet.weight_files import find_folder, weight_files
from octet.weight_index import CheckpointError, read_json

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_MAX_CONFIG_BYTES = 1024 * 1024

_TENSOR = re.compile(r"base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight")


class BaseModel:
    """The model that adapters are for, as far as its files tell; they are looked at when they are needed.

    Args:
        model: a directory or hub id.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._shapes: dict[str, tuple[int, ...] | None] | None = None

    def check(self, folder: Path, max_rank: int) -> None:
        """Looks at an adapter's files, in any thread.

        Args:
            folder: where they are.
            max_rank: the largest rank that the engine takes.

        Raises:
            InvalidRequestError: they are damaged, or those of another model's adapter.
        """
        _check_config(folder / _CONFIG, max_rank)
        pairs = _pairs(folder / _WEIGHTS)
        shapes = self._places()
        for module, pair in pairs.items():
            if pair.keys() != {"A", "B"} or any(len(shape) != 2 for shape in pair.values()):
                raise _wrong(f"has no two matrices for {module}")
            (rank, inputs), (outputs, same) = pair["A"], pair["B"]
            if rank != same or not 1 <= rank <= max_rank:
                raise _wrong(f"has the rank {rank} for {module}, and the server takes 1 to {max_rank}")
            if not shapes:
                continue
            place = _place(module)
            if place not in shapes:
                raise _wrong(f"is for another model: this one has no {module}")
            if (shape := shapes[place]) is not None and shape != (outputs, inputs):
                raise _wrong(
                    f"is for another model: {module} takes {inputs} and gives {outputs} there, "
                    f"{shape[1]} and {shape[0]} here"
                )

    def _places(self) -> dict[str, tuple[int, ...] | None]:
        """The shapes of the model's matrices [outputs, inputs] by place, None where it has another form."""
        with self._lock:
            if self._shapes is None:
                self._shapes = {}
                try:
                    files = weight_files(find_folder(self._model))
                except CheckpointError:
                    files = []
                for file in files:
                    if file.suffix == ".safetensors":
                        self._note(file)
            return self._shapes

    def _note(self, file: Path) -> None:
        from safetensors import safe_open

        assert self._shapes is not None
        with safe_open(file, "np") as weights:
            for name in weights.keys():  # noqa: SIM118 - not iterable
                module, _, kind = name.rpartition(".")
                shape = tuple(weights.get_slice(name).get_shape())
                if kind == "weight" and len(shape) == 2:
                    self._shapes[_place(module)] = shape
                else:
                    self._shapes.setdefault(_place(module), None)


def _place(module: str) -> str:
    """Which layer of which tower a module is, however the names of a checkpoint begin."""
    tower = "vision." if "vision" in module else ""
    at = module.find("layers.")
    return tower + (module[at:] if at >= 0 else module.rpartition(".")[2])


def _check_config(path: Path, max_rank: int) -> None:
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise _wrong(f"has an {_CONFIG} of more than {_MAX_CONFIG_BYTES} bytes")
        config: dict[str, Any] = read_json(path)
    except (CheckpointError, OSError, RecursionError) as error:
        raise _wrong(f"has no {_CONFIG} that can be read") from error
    if config.get("peft_type") != "LORA":
        raise _wrong(f"is none of LoRA's: its peft_type is {str(config.get('peft_type'))[:40]!r}")
    rank = config.get("r")
    if type(rank) is not int or not 1 <= rank <= max_rank:
        raise _wrong(f"has the rank {str(rank)[:40]}, and the server takes 1 to {max_rank} (--max-lora-rank)")


def _pairs(path: Path) -> dict[str, dict[str, tuple[int, ...]]]:
    """The shapes of both matrices of each module that the adapter changes."""
    from safetensors import SafetensorError, safe_open

    pairs: dict[str, dict[str, tuple[int, ...]]] = {}
    try:
        with safe_open(path, "np") as weights:
            for name in weights.keys():  # noqa: SIM118 - not iterable
                if match := _TENSOR.fullmatch(name):
                    shape = tuple(weights.get_slice(name).get_shape())
                    pairs.setdefault(match[1], {})[match[2]] = shape
    except (SafetensorError, OSError, ValueError) as error:
        raise _wrong(f"has an {_WEIGHTS} that is damaged") from error
    if not pairs:
        raise _wrong(f"changes nothing: {_WEIGHTS} has no matrices of LoRA's")
    return pairs


def _wrong(problem: str) -> InvalidRequestError:
    return InvalidRequestError("path", f"names an adapter that {problem}")
