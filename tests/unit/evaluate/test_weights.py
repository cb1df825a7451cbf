"""Weights' errors: against their definition, from files, in pieces."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

from octet import demo
from octet.cli.eval import eval as eval_command
from octet.evaluate import weights as weights_module
from octet.evaluate.weights import WeightComparison
from octet.ops import reference
from octet.weight_index import CheckpointError

MASTER = Path(__file__).parents[3] / "tools" / "demo_checkpoint" / "master"
NAMES = [f"model.layers.{layer}.mlp.{kind}_proj" for layer in range(2) for kind in ("up", "down")]


def source_weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        f"{name}.weight": torch.randn(24, 40, generator=generator).to(torch.bfloat16) for name in NAMES
    } | {"model.embed_tokens.weight": torch.ones(5, 4, dtype=torch.bfloat16)}


def quantized_weights(dtype: torch.dtype = torch.float8_e4m3fn) -> dict[str, torch.Tensor]:
    tensors = source_weights()
    for name in NAMES:
        codes, scale = reference.per_token_quant_fp8(tensors[f"{name}.weight"], dtype)
        tensors |= {f"{name}.weight": codes, f"{name}.weight_scale": scale.to(torch.bfloat16)}
    return tensors


def write(folder: Path, tensors: dict[str, torch.Tensor]) -> str:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    return str(folder)


def decibels(source: torch.Tensor, other: torch.Tensor) -> float:
    return 10 * math.log10(float(source.square().sum()) / float((source - other).square().sum()))


@pytest.mark.parametrize("piece", [1, 100, 1 << 22])
def test_errors_are_those_of_the_definition(
    piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_module, "_PIECE", piece)
    quantized = quantized_weights()
    comparison = WeightComparison(write(tmp_path / "q", quantized), write(tmp_path / "s", source_weights()))
    errors = list(comparison.errors())
    assert len(comparison) == len(errors) == len(NAMES)
    assert sorted(error.module for error in errors) == sorted(NAMES)
    for error in errors:
        source = source_weights()[f"{error.module}.weight"].double()
        codes, scale = quantized[f"{error.module}.weight"], quantized[f"{error.module}.weight_scale"]
        other = codes.double() * scale.double()
        assert error.format == "e4m3"
        assert error.error.sqnr == pytest.approx(decibels(source, other), abs=1e-3)
        rows = [decibels(a, b) for a, b in zip(source, other, strict=True)]
        assert error.error.worst_channel == min(range(24), key=rows.__getitem__)
        assert error.error.worst_sqnr == pytest.approx(min(rows), abs=1e-3)


def test_the_coarser_format_has_the_larger_error(tmp_path: Path) -> None:
    """One bit of mantissa is 6.02 dB."""
    source = write(tmp_path / "s", source_weights())
    means = []
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        errors = WeightComparison(write(tmp_path / str(dtype), quantized_weights(dtype)), source).errors()
        means.append(sum(error.error.sqnr for error in errors) / len(NAMES))
    assert 5 < means[0] - means[1] < 7


def test_an_output_layer_that_shared_the_embedding_is_compared_with_that(tmp_path: Path) -> None:
    embedding = "model.embed_tokens.weight"
    source = source_weights()
    source[embedding] = torch.randn(5, 4, generator=torch.Generator().manual_seed(4)).to(torch.bfloat16)
    codes, scale = reference.per_token_quant_fp8(source[embedding], torch.float8_e4m3fn)
    head = {"lm_head.weight": codes, "lm_head.weight_scale": scale}
    quantized = write(tmp_path / "q", {**quantized_weights(), embedding: source[embedding], **head})
    tied = {
        error.module: error for error in WeightComparison(quantized, write(tmp_path / "s", source)).errors()
    }
    assert tied.keys() == {*NAMES, "lm_head"}
    expected = decibels(source[embedding].double(), codes.double() * scale.double())
    assert tied["lm_head"].error.sqnr == pytest.approx(expected, abs=1e-3)
    own = source | {"lm_head.weight": source[embedding] * 2}
    untied = {e.module: e for e in WeightComparison(quantized, write(tmp_path / "own", own)).errors()}
    assert untied["lm_head"].error.sqnr < 10, "of another weight"


def test_layers_and_kinds() -> None:
    layer = weights_module.LayerError("model.layers.12.mlp.up_proj", "e4m3", None)  # type: ignore[arg-type]
    assert (layer.layer, layer.kind) == (12, "up_proj")
    assert weights_module.LayerError("lm_head", "e4m3", None).layer is None  # type: ignore[arg-type]


def test_what_does_not_belong_together(tmp_path: Path) -> None:
    quantized = write(tmp_path / "q", quantized_weights())
    source = write(tmp_path / "s", source_weights())
    with pytest.raises(CheckpointError, match="holds no FP8 weights with scales"):
        WeightComparison(source, source)
    with pytest.raises(CheckpointError, match=r"down_proj\.weight is F8_E4M3, quantized itself"):
        WeightComparison(quantized, quantized)
    lacking = {name: tensor for name, tensor in source_weights().items() if "down" not in name}
    with pytest.raises(CheckpointError, match=r"holds no tensor model\.layers\.0\.mlp\.down_proj\.weight"):
        WeightComparison(quantized, write(tmp_path / "lacking", lacking))
    other = {name: tensor[:-1].contiguous() for name, tensor in source_weights().items()}
    with pytest.raises(CheckpointError, match=r"is \[23, 40\], not \[24, 40\]"):
        WeightComparison(quantized, write(tmp_path / "other", other))


def test_the_command_on_the_demo_checkpoint(tmp_path: Path) -> None:
    plot = tmp_path / "plot.png"
    command = ["weights", str(demo.PATH), str(MASTER)]
    result = CliRunner().invoke(eval_command, [*command, "--json", "--plot", str(plot)])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert len(rows) == 4 * 7
    assert all(25 < row["sqnr"] < 40 and row["worst_sqnr"] <= row["sqnr"] for row in rows)
    with Image.open(plot) as image:
        assert image.format == "PNG"
        assert len(set(image.convert("RGB").getdata())) > 7, "lines of several colours"
    table = CliRunner().invoke(eval_command, command)
    assert table.exit_code == 0
    assert "language_model.model.layers.3.mlp.down_proj" in table.stdout
    assert "28 weights:" in table.stdout


def test_a_plot_without_matplotlib_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    arguments = ["weights", str(demo.PATH), str(MASTER), "--plot", str(tmp_path / "p.png")]
    result = CliRunner().invoke(eval_command, arguments)
    assert result.exit_code == 1
    assert result.stderr == "octet: error: --plot needs matplotlib; run `pip install octet-serve[bench]`\n"


def test_a_model_that_is_not_there_is_one_line() -> None:
    result = CliRunner().invoke(eval_command, ["weights", "/no/such", str(MASTER)])
    assert result.exit_code == 1
    assert result.stderr == "octet: error: /no/such is neither a directory nor a hub id\n"
