"""The shipped files: complete, small, in the published form, and what the unquantized weights round to."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from octet import demo
from tools.demo_checkpoint import export

MASTER = Path(export.__file__).with_name("master")
CONFIG = json.loads((demo.PATH / "config.json").read_text())


def test_it_is_small() -> None:
    assert sum(file.stat().st_size for file in demo.PATH.rglob("*") if file.is_file()) <= 8 * 2**20


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ],
)
def test_every_file_is_there(name: str) -> None:
    assert (demo.PATH / name).stat().st_size > 0


def test_linear_layers_of_the_text_model_are_fp8_and_nothing_else_is() -> None:
    with safe_open(demo.PATH / "model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    codes = {name for name, tensor in tensors.items() if tensor.dtype == torch.float8_e4m3fn}
    layers = CONFIG["text_config"]["num_hidden_layers"]
    parts = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    parts += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    assert codes == {
        f"language_model.model.layers.{layer}.{part}.weight" for layer in range(layers) for part in parts
    }
    for name in codes:
        scale = tensors[f"{name}_scale"]
        assert scale.dtype == torch.bfloat16
        assert scale.shape == (tensors[name].shape[0], 1)
    assert all(t.dtype == torch.bfloat16 for name, t in tensors.items() if name not in codes)
    assert {name.split(".")[0] for name in tensors} == {
        "language_model",
        "vision_tower",
        "multi_modal_projector",
    }


def test_the_shipped_codes_are_the_rounded_master_weights() -> None:
    shipped, master = load_file(demo.PATH / "model.safetensors"), load_file(MASTER / "model.safetensors")
    rounded = export.quantized(master)
    assert shipped.keys() == rounded.keys()
    assert all(torch.equal(shipped[n].view(torch.uint8), rounded[n].view(torch.uint8)) for n in shipped)


def test_rounding_is_that_of_compressed_tensors() -> None:
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import quantize
    from compressed_tensors.quantization.utils import calculate_qparams

    arguments = QuantizationArgs(num_bits=8, type="float", symmetric=True, strategy="channel")
    weight = torch.randn(96, 160, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    weight[3] = 0
    scale, zero = calculate_qparams(weight.amin(1, keepdim=True), weight.amax(1, keepdim=True), arguments)
    codes = quantize(weight, scale, zero, arguments, dtype=torch.float8_e4m3fn)
    our_codes, our_scale = export.quantize_rows(weight)
    assert torch.equal(our_scale, scale)
    assert torch.equal(our_codes.view(torch.uint8), codes.view(torch.uint8))


def test_only_bf16_weights_are_quantized() -> None:
    with pytest.raises(ValueError, match="float32"):
        export.quantize_rows(torch.ones(2, 2))


def test_the_configuration_is_valid_for_compressed_tensors() -> None:
    from compressed_tensors.quantization import QuantizationConfig

    config = QuantizationConfig.model_validate(CONFIG["quantization_config"])
    assert config.ignore == ["lm_head", "re:vision_tower.*", "re:multi_modal_projector.*"]
    (group,) = config.config_groups.values()
    assert group.input_activations is not None
    assert group.input_activations.dynamic


def test_generation_stops_at_the_end_of_a_turn_and_is_greedy() -> None:
    generation = json.loads((demo.PATH / "generation_config.json").read_text())
    assert len(generation["eos_token_id"]) == 2
    assert generation["temperature"] == 0.0
