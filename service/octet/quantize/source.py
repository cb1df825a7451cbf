"""The checkpoint that is quantized: a local directory or a model of the hub, an adapter merged into it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octet.loading.said import find
from octet.quantize import companions
from octet.quantize.adapter import Adapter
from octet.quantize.errors import QuantizeError
from octet.quantize.files import LocalFiles, WeightFiles
from octet.quantize.hub import StreamedFiles, download_snapshot
from octet.quantize.merge import Change
from octet.quantize.pickled import PickledFiles
from octet.quantize.safetensors_file import StoredTensor
from octet.weight_index import INDEX, CheckpointError, read_json, read_weight_map

CONFIG = "config.json"
SINGLE = "model.safetensors"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"

# What a model of the hub may have besides, and no one needs here.
_LEFT_ON_HUB = (
    *(f"*.{suffix}" for suffix in companions.WEIGHTS if suffix != "safetensors"),
    *("consolidated*", "original/*", "onnx/*", "openvino/*", "coreml/*", "gguf/*", "metal/*", ".*"),
)
_SHARDS = "model*.safetensors"

_PICKLED_FILES = ("pytorch_model.bin", "pytorch_model-*.bin", PICKLED_INDEX)


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint that is to be read.

    Attributes:
        directory: where its small files are.
        name: hub id, or the directory's name.
        revision: the commit of a hub model, None of a local directory.
        config: its config.json.
        files: its weight files.
        weight_map: the file of each tensor; None where a single file holds them all.
        adapter: what is merged into it; None for nothing.
    """

    directory: Path
    name: str
    revision: str | None
    config: dict[str, Any]
    files: WeightFiles
    weight_map: dict[str, str] | None
    adapter: Adapter | None = None

    @property
    def architecture(self) -> str:
        """The class that config.json names."""
        return str(self.config["architectures"][0])

    def written_as(self, file: str) -> str:
        """Name of the new file that is made of the weight file `file`."""
        if not file.endswith(".bin"):
            return file
        return file.removesuffix(".bin").replace("pytorch_model", "model") + ".safetensors"

    def changes(self, tensors: Iterable[StoredTensor]) -> dict[str, Change]:
        """What the adapter does to the checkpoint, by the names of the tensors that it changes.

        Args:
            tensors: all that the weight files hold.

        Raises:
            QuantizeError: a tensor of the adapter has no place among them.
        """
        if self.adapter is None:
            return {}
        text = self.config.get("text_config")
        settings = self.config if "tie_word_embeddings" in self.config else text
        tied = isinstance(settings, dict) and bool(settings.get("tie_word_embeddings"))
        return self.adapter.changes(tensors, tied)


def open_source(
    source: str, revision: str | None = None, adapter: Path | None = None, stream_to: Path | None = None
) -> Source:
    """Finds a checkpoint. A hub id is downloaded into huggingface_hub's cache, with its token.

    Args:
        source: a directory, or a hub id.
        revision: branch, tag or commit of a hub id.
        adapter: folder of a LoRA adapter to merge into it.
        stream_to: where the weight files of a hub id go, each when it is its turn, in place of the cache;
            None downloads all of them here and now.

    Raises:
        QuantizeError: there is no such checkpoint, it lacks files, it is quantized already, or the adapter
            cannot be merged.
    """
    local = Path(source).expanduser()
    if local.is_dir() and revision is not None:
        raise QuantizeError(f"{local} is a directory, of which there is no revision {revision}")
    if local.is_dir() and stream_to is not None:
        raise QuantizeError(f"{local} is a directory; only models of the hub can be streamed")
    merged = None if adapter is None else Adapter(adapter)
    try:
        if local.is_dir():
            directory, name, commit = local, local.resolve().name, None
        elif stream_to is None:
            directory = _download(source, revision)
            name, commit = source, directory.name
        else:
            directory = download_snapshot(source, revision, ignored=[*_LEFT_ON_HUB, _SHARDS])
            name, commit = source, directory.name
        config = _read_config(directory)
        files, weight_map = (
            _local_files(directory) if stream_to is None else _streamed_files(directory, source, stream_to)
        )
        return Source(directory, name, commit, config, files, weight_map, merged)
    except CheckpointError as error:
        raise QuantizeError(str(error)) from error


def _download(repository: str, revision: str | None) -> Path:
    """All of a model, torch's pickled files where there are no others."""
    directory = download_snapshot(repository, revision, ignored=_LEFT_ON_HUB)
    if next(directory.glob("*.safetensors"), None) is None:
        directory = download_snapshot(repository, directory.name, allowed=_PICKLED_FILES)
    return directory


def _local_files(directory: Path) -> tuple[WeightFiles, dict[str, str] | None]:
    weight_map = read_weight_map(directory)
    if weight_map is not None:
        return LocalFiles(directory, _in_order(weight_map)), weight_map
    if (directory / SINGLE).exists():
        return LocalFiles(directory, [SINGLE]), None
    weight_map = read_weight_map(directory, PICKLED_INDEX)
    if weight_map is not None:
        return PickledFiles(directory, _in_order(weight_map)), weight_map
    if (directory / PICKLED).exists():
        return PickledFiles(directory, [PICKLED]), None
    raise QuantizeError(f"{directory} holds neither {SINGLE} nor {INDEX}, nor {PICKLED}")


def _streamed_files(
    directory: Path, repository: str, folder: Path
) -> tuple[WeightFiles, dict[str, str] | None]:
    weight_map = read_weight_map(directory, here=False)
    if weight_map is None and (directory / PICKLED_INDEX).exists():
        raise QuantizeError(f"{repository} has no safetensors; torch's pickled files cannot be streamed")
    names = [SINGLE] if weight_map is None else _in_order(weight_map)
    return StreamedFiles(repository, directory.name, names, folder), weight_map


def _in_order(weight_map: dict[str, str]) -> list[str]:
    return sorted(set(weight_map.values()))


def _read_config(directory: Path) -> dict[str, Any]:
    config = read_json(directory / CONFIG)
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        raise QuantizeError(f"{directory / CONFIG} names no architecture")
    if said := find(config)[1]:
        method = said.get("quant_method") if isinstance(said, Mapping) else None
        raise QuantizeError(
            f"{directory / CONFIG}: the checkpoint is quantized already ({method or 'an unnamed method'})"
        )
    return config
