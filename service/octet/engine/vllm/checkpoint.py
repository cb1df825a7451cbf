"""What a checkpoint on disk says about itself, and whether vLLM here could load it; nothing is loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octet.engine.types import Quantization
from octet.engine.vllm import formats
from octet.engine.vllm.formats import FormatPair
from octet.engine.vllm.serving.model_info import quantization
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
        quant_method: the method's name in the config, "" when it is not quantized.
        quantizes_vocabulary: whether the config says that the output layer is quantized too.
        weight_files: the files of its weights, in the order of their names.
    """

    folder: Path
    config: dict[str, Any]
    architectures: tuple[str, ...]
    quantization: Quantization | None
    quant_method: str
    quantizes_vocabulary: bool
    weight_files: tuple[Path, ...]

    @property
    def weight_bytes(self) -> int:
        """What the weight files hold."""
        return sum(path.stat().st_size for path in self.weight_files)

    @property
    def vocabulary_format(self) -> str | None:
        """The format of the output layer's codes; None where it is not quantized."""
        return self.quantization.weight_format if self.quantization and self.quantizes_vocabulary else None

    @property
    def pair(self) -> FormatPair | None:
        """The number formats, where the method is Octet's own."""
        if self.quant_method != formats.METHOD or self.quantization is None:
            return None
        return FormatPair(self.quantization.weight_format, self.quantization.activation_format)


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
    quant_config = config.get("quantization_config")
    try:
        scheme = quantization(quant_config)
    except ValueError as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from error
    return Checkpoint(
        folder=folder,
        config=config,
        architectures=tuple(config.get("architectures") or ()),
        quantization=scheme,
        quant_method=str(quant_config.get("quant_method", "")) if quant_config else "",
        quantizes_vocabulary=formats.quantizes_vocabulary(quant_config or {}),
        weight_files=tuple(weights),
    )


def load_obstacles(checkpoint: Checkpoint, device: str) -> list[str]:
    """Why this vLLM could not load the checkpoint on `device`, "cpu" or "cuda"; imports vLLM."""
    obstacles = unknown_to_vllm(checkpoint)
    if (pair := checkpoint.pair) and (reason := formats.refusal(pair, device)):
        obstacles.append(reason)
    return obstacles


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
