"""What a checkpoint on disk says about itself, and whether vLLM here could load it; nothing is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octet.engine.types import Quantization
from octet.engine.vllm import compat, formats
from octet.engine.vllm.formats import FormatPair
from octet.engine.vllm.serving.model_info import describe_scheme
from octet.loading import rules
from octet.loading.contents import Contents
from octet.loading.headers import Tensor, read_headers
from octet.loading.said import Said, find, read
from octet.weight_files import find_folder, weight_files
from octet.weight_index import CheckpointError, read_json


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint's description.

    Attributes:
        folder: where its files are.
        config: its config.json.
        architectures: the classes that its config names.
        quantization: how it is quantized, None when it is not.
        said: what the config says of quantization, None when nothing.
        weight_files: the files of its weights, in the order of their names.
    """

    folder: Path
    config: dict[str, Any]
    architectures: tuple[str, ...]
    quantization: Quantization | None
    said: Said | None
    weight_files: tuple[Path, ...]

    @property
    def weight_bytes(self) -> int:
        """What the weight files hold."""
        return sum(path.stat().st_size for path in self.weight_files)

    @property
    def quant_method(self) -> str:
        """The method's name, "" when it is not quantized."""
        return self.said.method if self.said else ""

    @property
    def quantizes_vocabulary(self) -> bool:
        """Whether the config says that the output layer is quantized too."""
        return self.said is not None and self.said.names_output_layer

    @property
    def vocabulary_format(self) -> str | None:
        """The format of the output layer's codes; None where it is not quantized."""
        return self.quantization.weight_format if self.quantization and self.quantizes_vocabulary else None

    @property
    def pair(self) -> FormatPair | None:
        """The number formats, where the method is Octet's own."""
        return self.said.pair if self.said else None


def read_checkpoint(model: str) -> Checkpoint:
    """Describes a local directory, or a hub id whose files are in the local cache; never downloads.

    Raises:
        CheckpointError: there is no such model here, or files are missing.
    """
    folder = find_folder(model)
    config = read_json(folder / "config.json")
    weights = weight_files(folder)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "tekken.json")):
        raise CheckpointError(f"{folder} holds no tokenizer")
    architectures = _architectures(folder, config)
    path, quant_config = find(config)
    try:
        said = None if quant_config is None else read(quant_config, path)
    except ValueError as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from error
    return Checkpoint(
        folder=folder,
        config=config,
        architectures=architectures,
        quantization=describe_scheme(said) if said else None,
        said=said,
        weight_files=tuple(weights),
    )


def _architectures(folder: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    named = config.get("architectures") or []
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise CheckpointError(f"{folder / 'config.json'}: architectures: is not a list of names")
    return tuple(named)


def contents_of(checkpoint: Checkpoint, tensors: Mapping[str, Tensor]) -> Contents:
    """The checkpoint with `tensors`, which its files hold, put together as vLLM would. Imports vLLM."""
    renaming = compat.naming.renaming(checkpoint.architectures)
    return Contents(checkpoint.config, checkpoint.said, tensors, renaming)


def read_tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """What the checkpoint's files hold, by name; only headers are read.

    Raises:
        CheckpointError: a file is no whole safetensors file.
    """
    return {tensor.name: tensor for path in checkpoint.weight_files for tensor in read_headers(path)}


def load_obstacles(checkpoint: Checkpoint, device: str) -> list[str]:
    """Why this vLLM could not load the checkpoint on `device`, "cpu" or "cuda"; imports vLLM."""
    obstacles = unknown_to_vllm(checkpoint)
    if (pair := checkpoint.pair) and (reason := formats.refusal(pair, device)):
        obstacles.append(reason)
    return obstacles


def content_obstacles(contents: Contents, device: str) -> list[str]:
    """Why vLLM could not load what a checkpoint holds as what it is: on any machine, or here on `device`."""
    obstacles = list(rules.problems(contents))
    if device == "cpu" and (reason := unmultiplied_on_cpu(contents)):
        obstacles.append(reason)
    return obstacles


def unmultiplied_on_cpu(contents: Contents) -> str | None:
    """Why vLLM has no kernel for a checkpoint's FP8 on this machine's CPU; None where it has."""
    import torch

    return rules.unmultiplied_on_cpu(contents, torch.cpu._is_amx_tile_supported())


def unknown_to_vllm(checkpoint: Checkpoint) -> list[str]:
    """What of the checkpoint this vLLM has no code for, whatever the machine; imports vLLM."""
    from vllm import ModelRegistry
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
    from vllm.plugins import load_general_plugins

    # Octet's own method among them.
    load_general_plugins()
    obstacles = []
    known = ModelRegistry.get_supported_archs()
    if not any(name in known for name in checkpoint.architectures):
        names = ", ".join(checkpoint.architectures) or "none"
        obstacles.append(f"vLLM does not know its architecture ({names})")
    if checkpoint.quant_method and checkpoint.quant_method not in QUANTIZATION_METHODS:
        obstacles.append(f"vLLM does not know its quantization method {checkpoint.quant_method}")
    return obstacles


def has_chat_template(folder: Path) -> bool:
    """Whether a checkpoint brings a chat template along, in any of the files that may hold one."""
    if any(
        (folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json", "tekken.json")
    ):
        return True
    files = [folder / name for name in ("tokenizer_config.json", "processor_config.json")]
    return any(bool(read_json(file).get("chat_template")) for file in files if file.is_file())
