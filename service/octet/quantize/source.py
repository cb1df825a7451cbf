"""The checkpoint that is quantized: a local directory, or a model of the hub."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octet.loading.said import find
from octet.quantize import companions
from octet.quantize.errors import QuantizeError, reason_of
from octet.weight_index import INDEX, CheckpointError, read_json, read_weight_map

CONFIG = "config.json"
SINGLE = "model.safetensors"

# What a model of the hub may have besides, and no one needs here.
_LEFT_ON_HUB = (
    *(f"*.{suffix}" for suffix in companions.WEIGHTS if suffix != "safetensors"),
    *("consolidated*", "original/*", "onnx/*", "openvino/*", "coreml/*", "gguf/*", "metal/*", ".*"),
)


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint as it lies on this machine.

    Attributes:
        directory: where its files are.
        name: hub id, or the directory's name.
        revision: the commit of a hub model, None of a local directory.
        config: its config.json.
        shards: names of its weight files, in order.
        weight_map: the file of each tensor; None where a single file holds them all.
    """

    directory: Path
    name: str
    revision: str | None
    config: dict[str, Any]
    shards: tuple[str, ...]
    weight_map: dict[str, str] | None

    @property
    def architecture(self) -> str:
        """The class that config.json names."""
        return str(self.config["architectures"][0])


def open_source(source: str, revision: str | None = None) -> Source:
    """Finds a checkpoint; a hub id is downloaded into huggingface_hub's cache, with its token.

    Args:
        source: a directory, or a hub id.
        revision: branch, tag or commit of a hub id.

    Raises:
        QuantizeError: there is no such checkpoint, it lacks files, or it is quantized already.
    """
    local = Path(source).expanduser()
    if local.is_dir() and revision is not None:
        raise QuantizeError(f"{local} is a directory, of which there is no revision {revision}")
    try:
        if local.is_dir():
            return _describe(local, local.resolve().name, None)
        directory = _download(source, revision)
        return _describe(directory, source, directory.name)
    except CheckpointError as error:
        raise QuantizeError(str(error)) from error


def _download(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        directory = snapshot_download(repository, revision=revision, ignore_patterns=list(_LEFT_ON_HUB))
    except HFValidationError as error:
        raise QuantizeError(f"{repository} is neither a directory nor a hub id") from error
    except LocalEntryNotFoundError as error:
        raise QuantizeError(
            f"{repository} is not in the local cache, and the hub cannot be reached"
        ) from error
    except HfHubHTTPError as error:
        raise QuantizeError(f"{repository} cannot be downloaded: {_first_line(error)}") from error
    except OSError as error:
        raise QuantizeError(f"{repository} cannot be downloaded: {reason_of(error)}") from error
    return Path(directory)


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line), type(error).__name__)


def _describe(directory: Path, name: str, revision: str | None) -> Source:
    config = read_json(directory / CONFIG)
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        raise QuantizeError(f"{directory / CONFIG} names no architecture")
    if said := find(config)[1]:
        method = said.get("quant_method") if isinstance(said, Mapping) else None
        raise QuantizeError(
            f"{directory / CONFIG}: the checkpoint is quantized already ({method or 'an unnamed method'})"
        )
    weight_map = read_weight_map(directory)
    if weight_map is not None:
        shards = tuple(sorted(set(weight_map.values())))
    elif (directory / SINGLE).exists():
        shards = (SINGLE,)
    else:
        raise QuantizeError(f"{directory} holds neither {SINGLE} nor {INDEX}")
    return Source(directory, name, revision, config, shards, weight_map)
