"""What can go wrong: one line that names file and tensor, an untouched source, nothing half-written."""

import errno
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from octet.quantize.errors import QuantizeError
from tests.quantize.conftest import GOLDEN, Quantize

WEIGHT = "model.layers.1.mlp.up_proj.weight"
SHARD = "model.safetensors"


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A single-file checkpoint that a test may damage."""
    shutil.copytree(GOLDEN / "llama-bfloat16-untied/source", tmp_path / "source")
    return tmp_path / "source"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """The same in three files."""
    shutil.copytree(GOLDEN / "llama-float16-tied/source", tmp_path / "sharded")
    return tmp_path / "sharded"


@pytest.fixture
def refused(tmp_path: Path, quantize: Quantize) -> Callable[..., str]:
    """Quantizes what cannot be, and returns the error's line; nothing is left behind or changed."""

    def run(source: Path, **options: object) -> str:
        before = contents(source)
        there = set(os.listdir(tmp_path))
        with pytest.raises(QuantizeError) as caught:
            quantize(source, tmp_path / "made", **options)
        assert contents(source) == before
        assert set(os.listdir(tmp_path)) == there
        message = str(caught.value)
        assert "\n" not in message
        return message

    return run


def change_weight(source: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    weights = load_file(source / SHARD)
    weights[WEIGHT] = change(weights[WEIGHT])
    save_file(weights, source / SHARD)


def change_config(source: Path, **values: object) -> None:
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | values))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_nan_and_infinity(source: Path, refused: Callable[..., str], bad: float) -> None:
    def spoil(weight: torch.Tensor) -> torch.Tensor:
        weight[17, 3] = bad
        return weight

    change_weight(source, spoil)
    message = refused(source)
    assert message == (f"{source / SHARD}: tensor {WEIGHT} holds NaN or an infinity, in output channel 17")


def test_a_tensor_that_is_fp8_already(source: Path, refused: Callable[..., str]) -> None:
    change_weight(source, lambda weight: weight.to(torch.float8_e4m3fn))
    assert refused(source) == (
        f"{source / SHARD}: tensor {WEIGHT} is quantized already: its dtype is F8_E4M3"
    )


def test_a_tensor_of_another_dtype(source: Path, refused: Callable[..., str]) -> None:
    change_weight(source, lambda weight: weight.to(torch.int8))
    assert f"tensor {WEIGHT} cannot be quantized: its dtype is I8" in refused(source)


def test_a_checkpoint_that_is_quantized_already(source: Path, refused: Callable[..., str]) -> None:
    change_config(source, quantization_config={"quant_method": "awq"})
    assert refused(source) == f"{source / 'config.json'}: the checkpoint is quantized already (awq)"


def test_an_unknown_architecture(source: Path, refused: Callable[..., str]) -> None:
    change_config(source, architectures=["NobodysForCausalLM"], model_type="nobodys")
    message = refused(source)
    assert message.startswith(f"{source / 'config.json'}: transformers ")
    assert message.endswith(
        " has no NobodysForCausalLM; --like names a family that it is built as, "
        "and --blocks its linear layers"
    )


def test_a_matrix_that_the_architecture_does_not_have(source: Path, refused: Callable[..., str]) -> None:
    weights = load_file(source / SHARD)
    weights["model.layers.0.mlp.router.weight"] = torch.zeros((4, 16))
    save_file(weights, source / SHARD)
    assert "LlamaForCausalLM is not known to have the matrix model.layers.0.mlp.router.weight" in refused(
        source
    )


@pytest.mark.parametrize("length", [0, 4, 100, 2000])
def test_a_truncated_file(source: Path, refused: Callable[..., str], length: int) -> None:
    os.truncate(source / SHARD, length)
    assert refused(source).startswith(f"{source / SHARD} is no whole safetensors file: ")


def test_a_header_that_is_not_json(source: Path, refused: Callable[..., str]) -> None:
    (source / SHARD).write_bytes(struct.pack("<Q", 16) + b"{" * 16)
    assert refused(source).startswith(f"{source / SHARD} is no whole safetensors file: ")


def test_a_missing_shard(sharded: Path, refused: Callable[..., str]) -> None:
    missing = "model-00002-of-00003.safetensors"
    (sharded / missing).unlink()
    assert refused(sharded) == f"{sharded} lacks 1 of 3 weight files, such as {missing}"


def test_a_tensor_that_the_index_puts_elsewhere(sharded: Path, refused: Callable[..., str]) -> None:
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    name, shard = next(iter(index["weight_map"].items()))
    index["weight_map"][name] = "model-00002-of-00003.safetensors"
    assert shard != index["weight_map"][name]
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    message = refused(sharded)
    assert (
        message
        == f"{sharded / 'model-00002-of-00003.safetensors'} lacks the tensor {name}, which the index names"
    )


def test_an_index_that_leads_out_of_the_directory(sharded: Path, refused: Callable[..., str]) -> None:
    index = {"weight_map": {"a": "../secret.safetensors"}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "names a weight file elsewhere: ../secret.safetensors" in refused(sharded)


def test_no_weights(source: Path, refused: Callable[..., str]) -> None:
    (source / SHARD).rename(source / "model.gguf")
    assert refused(source) == (
        f"{source} holds neither model.safetensors nor model.safetensors.index.json, nor pytorch_model.bin"
    )


def test_nothing_to_quantize(source: Path, refused: Callable[..., str]) -> None:
    assert refused(source, ignore=("Linear",)) == f"{source}: no linear layer is left to quantize"


def test_too_little_space_is_said_before_anything_is_written(
    source: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(source)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert " has 1.00 kB of free space, and the quantized weights take " in refused(source)


def test_the_destination_is_not_empty(source: Path, tmp_path: Path, quantize: Quantize) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made/file").write_text("kept")
    with pytest.raises(QuantizeError, match="made is there already, and not empty"):
        quantize(source, tmp_path / "made")
    assert contents(tmp_path / "made") == {"file": b"kept"}


def test_the_destination_is_a_file(source: Path, tmp_path: Path, quantize: Quantize) -> None:
    (tmp_path / "made").write_text("kept")
    with pytest.raises(QuantizeError, match="is no directory"):
        quantize(source, tmp_path / "made")


@pytest.mark.parametrize("place", [".", "below", ".."])
def test_source_and_destination_are_one(source: Path, quantize: Quantize, place: str) -> None:
    before = contents(source)
    with pytest.raises(QuantizeError, match="one inside the other"):
        quantize(source, source / place)
    assert contents(source) == before


def test_an_empty_destination_is_filled(source: Path, tmp_path: Path, quantize: Quantize) -> None:
    (tmp_path / "made").mkdir()
    quantize(source, tmp_path / "made")
    assert (tmp_path / "made/config.json").is_file()


def fail_at_call(real: Callable[..., int], number: int, code: int) -> Callable[..., int]:
    """A system call that fails from its `number`-th call on."""
    calls = 0

    def call(*arguments: object) -> int:
        nonlocal calls
        calls += 1
        if calls >= number:
            raise OSError(code, os.strerror(code))
        return real(*arguments)

    return call


@pytest.mark.parametrize(
    ("call", "number"),
    [("pwrite", 1), ("pwrite", 2), ("pwrite", 20), ("copy_file_range", 3), ("ftruncate", 1)],
)
def test_a_full_disk_is_said_and_the_next_run_completes(
    source: Path,
    tmp_path: Path,
    quantize: Quantize,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    number: int,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail_at_call(getattr(os, call), number, errno.ENOSPC))
        with pytest.raises(
            QuantizeError, match=r"model\.safetensors.* cannot be .*: No space left on device"
        ):
            quantize(source, tmp_path / "made", workers=1)
    assert not (tmp_path / "made").exists()
    quantize(source, tmp_path / "made", verify=True)
    assert sorted(os.listdir(tmp_path)) == ["made", "source"]


@pytest.mark.parametrize(
    "place", ["model.safetensors.part", "journal", "config.json", "sub/tokenizer.json", "README.md"]
)
def test_a_disk_that_is_full_names_the_file_and_what_is_left(
    source: Path, tmp_path: Path, quantize: Quantize, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (source / "sub").mkdir()
    (source / "sub/tokenizer.json").write_text("{}")
    real = os.fsync

    def fsync(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(place) and full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    full, work = True, tmp_path / ".made.octet-quantize"
    with pytest.raises(QuantizeError) as caught:
        quantize(source, tmp_path / "made")
    message = str(caught.value)
    assert message.startswith(str(work))
    assert f"{place} cannot be written: No space left on device" in message
    if place != "journal":
        assert message.endswith(
            f"; what is done so far lies in {work}: the same command goes on with it, or remove it"
        )
    full = False
    quantize(source, tmp_path / "made")
    assert sorted(os.listdir(tmp_path)) == ["made", "source"]


NORM = "model.layers.0.input_layernorm.weight"


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", [NORM, "model.embed_tokens.weight", "lm_head.weight"])
@pytest.mark.parametrize("kernel", [True, False])
def test_what_is_copied_with_nan_in_it_is_named(
    source: Path,
    tmp_path: Path,
    quantize: Quantize,
    monkeypatch: pytest.MonkeyPatch,
    bad: float,
    name: str,
    kernel: bool,
) -> None:
    weights = load_file(source / SHARD)
    weights[name].view(-1)[-1] = bad
    save_file(weights, source / SHARD, metadata={"format": "pt"})
    if not kernel:
        monkeypatch.setattr(os, "copy_file_range", fail_at_call(os.copy_file_range, 1, errno.EXDEV))
    line = f"{source / SHARD}: tensor {name} holds NaN or an infinity, and was copied as it is"
    with monkeypatch.context() as patch:  # an interrupted run does not forget
        patch.setattr(shutil, "copyfileobj", None)
        patch.setattr("octet.quantize.checkpoint._write_rest", fail_at_call(len, 1, errno.EIO))
        with pytest.raises(QuantizeError, match="Input/output error; what is done so far lies in"):
            quantize(source, tmp_path / "made")
    assert quantize(source, tmp_path / "made").warnings == (line,)


def test_weights_too_small_for_a_scale_are_named(source: Path, tmp_path: Path, quantize: Quantize) -> None:
    weights = load_file(source / SHARD)
    for name in list(weights):  # but for the rows that are so to begin with
        if name.endswith("_proj.weight"):
            weights[name] = torch.full_like(weights[name], 0.5)
    weights[WEIGHT][3] = 1e-38
    save_file(weights, source / SHARD, metadata={"format": "pt"})
    (warning,) = quantize(source, tmp_path / "made", verify=True).warnings
    assert warning.startswith(
        f"{WEIGHT}: output channel 3 has only 0.00 dB, where rounding leaves 24 or more: "
    )
    assert quantize(source, tmp_path / "other").warnings == ()


@pytest.mark.parametrize("said", [{"tie_word_embeddings": False}, {}])
def test_a_model_without_its_output_layer_is_refused(
    source: Path, refused: Callable[..., str], said: dict[str, bool]
) -> None:
    weights = load_file(source / SHARD)
    del weights["lm_head.weight"]
    save_file(weights, source / SHARD, metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    config.pop("tie_word_embeddings")
    (source / "config.json").write_text(json.dumps(config | said))
    assert "no output layer is stored, and tie_word_embeddings is false" in refused(source)


def test_an_unreadable_shard_names_the_tensor(
    source: Path, tmp_path: Path, quantize: Quantize, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "preadv", fail_at_call(os.preadv, 3, errno.EIO))
    pattern = rf"{source / SHARD}: tensor model\.\S+ cannot be read: Input/output error"
    with pytest.raises(QuantizeError, match=pattern):
        quantize(source, tmp_path / "made", workers=1)
    assert not (tmp_path / "made").exists()


def test_a_failing_flush_is_an_error(
    source: Path, tmp_path: Path, quantize: Quantize, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", fail_at_call(os.fsync, 2, errno.EIO))
    with pytest.raises(QuantizeError, match="cannot be written: Input/output error"):
        quantize(source, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_verify_finds_what_the_disk_did_not_keep(
    source: Path, tmp_path: Path, quantize: Quantize, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lossy(source: int, target: int, count: int, *offsets: int) -> int:
        return os.pwrite(target, bytes(count), offsets[1])

    monkeypatch.setattr(os, "copy_file_range", lossy)
    with pytest.raises(QuantizeError, match="is not what its source is"):
        quantize(source, tmp_path / "made", verify=True)
    assert not (tmp_path / "made").exists()


def test_copies_where_the_kernel_does_not(
    source: Path, tmp_path: Path, quantize: Quantize, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize(source, tmp_path / "expected")
    monkeypatch.setattr(os, "copy_file_range", fail_at_call(os.copy_file_range, 2, errno.EXDEV))
    quantize(source, tmp_path / "made")
    assert contents(tmp_path / "made") == contents(tmp_path / "expected")


def test_a_source_that_shrinks_meanwhile(
    source: Path, tmp_path: Path, quantize: Quantize, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: 0)
    with pytest.raises(QuantizeError, match=r"model.safetensors ends within the tensor \S+weight; what"):
        quantize(source, tmp_path / "made")
