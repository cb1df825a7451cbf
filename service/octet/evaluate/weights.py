"""The error of each quantized weight against the checkpoint that it was made from."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from octet.engine.vllm.formats import OUTPUT_LAYER, SAFETENSORS_DTYPES
from octet.loading.headers import Tensor, read_headers
from octet.quantize.architectures import shared_embeddings
from octet.quantize.sqnr import WeightError, channel_energies, from_energies
from octet.weight_files import find_folder, weight_files
from octet.weight_index import CheckpointError

# Elements of a weight that are compared at once; each takes some 20 bytes meanwhile.
_PIECE = 1 << 22


@dataclass(frozen=True, slots=True)
class LayerError:
    """The error of one linear layer's weight.

    Attributes:
        module: the layer's name.
        format: of its codes, "e4m3" or "e5m2".
        error: how far it is from its source.
    """

    module: str
    format: str
    error: WeightError

    @property
    def layer(self) -> int | None:
        """The first number in the name: which of a model's repeated layers it belongs to."""
        match = re.search(r"(?<=\.)\d+(?=\.)", self.module)
        return int(match[0]) if match else None

    @property
    def kind(self) -> str:
        """The last part of the name, such as "down_proj"."""
        return self.module.rpartition(".")[2]


class WeightComparison:
    """The quantized weights of one checkpoint, and the same ones of another.

    An output layer that shares the embedding in the source is compared with that. Only the headers are read
    before the errors are asked for.
    """

    def __init__(self, quantized: str, source: str) -> None:
        """Takes directories, or hub ids in the local cache.

        Raises:
            CheckpointError: one is not there or damaged, no weight is quantized, or the source lacks one.
        """
        self._codes, self._sources = _Files(find_folder(quantized)), _Files(find_folder(source))
        formats = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}
        self._formats = {
            name: formats[tensor.dtype]
            for name, (tensor, _) in self._codes.tensors.items()
            if tensor.dtype in formats and f"{name}_scale" in self._codes.tensors
        }
        if not self._formats:
            raise CheckpointError(f"{self._codes.folder} holds no FP8 weights with scales")
        self._origins = {name: self._origin(name) for name in self._formats}
        for name, origin in self._origins.items():
            self._check(name, origin)

    def __len__(self) -> int:
        """How many weights there are."""
        return len(self._formats)

    def errors(self) -> Iterator[LayerError]:
        """Compares one weight after the other, in pieces: memory does not grow with the model.

        Raises:
            CheckpointError: a file cannot be read.
        """
        with ExitStack() as stack:
            codes, sources = self._codes.open(stack), self._sources.open(stack)
            for name, format_name in self._formats.items():
                scale, origin = codes(f"{name}_scale")[:], sources(self._origins[name])
                rows, columns = self._codes.tensors[name][0].shape
                step = max(1, _PIECE // columns)
                energies = [
                    channel_energies(
                        origin[begin : begin + step],
                        codes(name)[begin : begin + step],
                        scale.reshape(-1, 1).expand(rows, 1)[begin : begin + step],
                    )
                    for begin in range(0, rows, step)
                ]
                signal, noise = (torch.cat(parts) for parts in zip(*energies, strict=True))
                yield LayerError(name.removesuffix(".weight"), format_name, from_energies(signal, noise))

    def _origin(self, name: str) -> str:
        """The source's tensor of which a weight was made."""
        if name.endswith(f"{OUTPUT_LAYER}.weight") and name not in self._sources.tensors:
            shared = shared_embeddings(self._sources.tensors)
            return shared[0] if len(shared) == 1 else name
        return name

    def _check(self, name: str, origin: str) -> None:
        if origin not in self._sources.tensors:
            raise CheckpointError(f"{self._sources.folder} holds no tensor {origin}")
        (codes, _), (source, path) = self._codes.tensors[name], self._sources.tensors[origin]
        (scale, _) = self._codes.tensors[f"{name}_scale"]
        if source.shape != codes.shape or len(codes.shape) != 2:
            raise CheckpointError(f"{path}: tensor {origin} is {list(source.shape)}, not {list(codes.shape)}")
        if source.dtype not in ("F32", "F16", "BF16"):
            raise CheckpointError(f"{path}: tensor {origin} is {source.dtype}, quantized itself")
        if scale.elements not in (1, codes.shape[0]):
            raise CheckpointError(
                f"{self._codes.folder}: tensor {name}_scale is {list(scale.shape)}, neither one scale nor "
                "one per output channel"
            )


class _Files:
    """A checkpoint's tensors and the files that hold them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tensors: dict[str, tuple[Tensor, Path]] = {
            tensor.name: (tensor, path) for path in weight_files(folder) for tensor in read_headers(path)
        }

    def open(self, stack: ExitStack) -> Any:
        """A function from a tensor's name to what reads slices of it."""
        paths = {path for _, path in self.tensors.values()}
        files = {path: stack.enter_context(safe_open(path, framework="pt")) for path in paths}
        return lambda name: files[self.tensors[name][1]].get_slice(name)
