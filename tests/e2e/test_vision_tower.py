"""The tower in slices, over vLLM's modules and against transformers'; no engine."""

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from octet.engine.vllm.inside.vision import tower as tower_module
from octet.engine.vllm.inside.vision.follow import Encoder
from octet.engine.vllm.inside.vision.pictures import Instruction, Slice
from octet.engine.vllm.inside.vision.tower import Encoding, SlicedTower
from tests.e2e.one_rank import one_rank

CROPS, SIDE, PATCH, TOKENS = 2, 48, 4, 16
VISION = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": PATCH,
    "hidden_act": "gelu_pytorch_tanh",
    "vision_use_head": False,
}


@pytest.fixture(scope="module", autouse=True)
def in_one_rank() -> Iterator[None]:
    from vllm.config import VllmConfig, set_current_vllm_config

    with one_rank(), torch.no_grad(), set_current_vllm_config(VllmConfig()):
        yield


def config() -> Any:
    from transformers import Gemma3Config

    text = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    return Gemma3Config(text_config=text, vision_config=VISION, mm_tokens_per_image=TOKENS)


def theirs() -> tuple[torch.nn.Module, torch.nn.Module]:
    """The tower and the projector of transformers, with random weights that bf16 holds exactly."""
    from transformers.models.gemma3.modeling_gemma3 import Gemma3MultiModalProjector
    from transformers.models.siglip import SiglipVisionModel

    tower, projector = SiglipVisionModel(config().vision_config), Gemma3MultiModalProjector(config())
    generator = torch.Generator().manual_seed(3)
    for module in (tower, projector):
        for name, value in module.named_parameters():
            scale = 0.3 if "norm" in name or name.endswith("bias") else value.shape[-1] ** -0.5
            drawn = torch.randn(value.shape, generator=generator) * scale
            value.data = drawn.bfloat16().float()
    return tower.eval(), projector.eval()


def ours(tower: torch.nn.Module, projector: torch.nn.Module, dtype: torch.dtype) -> Any:
    """vLLM's model, or what of it the tower needs, with the same weights."""
    from vllm.model_executor.models.gemma3_mm import Gemma3MultiModalProjector
    from vllm.model_executor.models.siglip import SiglipVisionModel

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        vision = SiglipVisionModel(config().vision_config, prefix="vision_tower")
        connector = Gemma3MultiModalProjector(config())
    finally:
        torch.set_default_dtype(before)
    weights = ((name.removeprefix("vision_model."), value) for name, value in tower.state_dict().items())
    vision.vision_model.load_weights(weights)
    connector.load_state_dict(projector.state_dict())
    for part in vision.modules():
        if (method := getattr(part, "quant_method", None)) is not None:
            method.process_weights_after_loading(part)
    return SimpleNamespace(vision_tower=vision, multi_modal_projector=connector, config=config())


def pixels(crops: int = CROPS) -> torch.Tensor:
    values = torch.rand((crops, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(1)) * 2 - 1
    return values.bfloat16()


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got.float() - expected).norm() / expected.norm())


@pytest.fixture(params=["f32", "bf16"])
def sliced(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SlicedTower:
    """On a CPU without products in bf16, and on one with them."""
    monkeypatch.setattr(tower_module, "multiplies_narrow", lambda: request.param == "bf16")
    tower = SlicedTower(ours(*theirs(), torch.bfloat16))
    assert tower.dtype == (torch.float32 if request.param == "f32" else torch.bfloat16)
    return tower


@pytest.mark.parametrize("block_rows", [144, 50, 256])
def test_it_computes_what_transformers_does(sliced: SlicedTower, block_rows: int) -> None:
    """In f32 all of the error is the last rounding; in bf16 it is transformers' own in bf16."""
    sliced.shape = replace(sliced.shape, block_rows=block_rows)
    tower, projector = theirs()
    expected = projector(tower(pixels().float()).last_hidden_state)
    encoded = sliced.encode(pixels())
    assert encoded.dtype == torch.bfloat16
    assert encoded.shape == (CROPS, TOKENS, 48)
    narrow = projector.bfloat16()(tower.bfloat16()(pixels()).last_hidden_state)
    error = relative(encoded, expected)
    if sliced.dtype == torch.float32:
        assert error < 2**-8
        assert error < relative(narrow, expected)
    else:
        assert error < 1.5 * relative(narrow, expected)


def test_where_it_is_cut_changes_nothing(sliced: SlicedTower) -> None:
    sliced.shape = replace(sliced.shape, block_rows=50)
    whole = sliced.encode(pixels())
    units = CROPS * sliced.shape.units_of_crop
    for step in (1, 7):
        encoding = Encoding(sliced, pixels())
        for start in range(0, units, step):
            encoding.advance(min(start + step, units))
        assert torch.equal(torch.stack(encoding.projected), whole)


def test_pictures_in_turns_do_not_mix(sliced: SlicedTower) -> None:
    sliced.shape = replace(sliced.shape, block_rows=50)
    first, second = pixels(1), pixels(2)[1:]
    alone = [sliced.encode(first)[0], sliced.encode(second)[0]]
    assert not torch.equal(*alone)
    encodings = [Encoding(sliced, first), Encoding(sliced, second)]
    for stop in range(sliced.shape.units_of_crop):
        for encoding in encodings:
            encoding.advance(stop + 1)
    for encoding, expected in zip(encodings, alone, strict=True):
        assert torch.equal(encoding.projected[0], expected)


def test_the_crops_of_a_picture_are_encoded_apart(sliced: SlicedTower) -> None:
    together = sliced.encode(pixels())
    for crop in range(CROPS):
        assert torch.equal(sliced.encode(pixels()[crop : crop + 1])[0], together[crop])


def test_vllms_own_pass_keeps_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not come in slices still goes through vLLM's tower."""
    monkeypatch.setattr(tower_module, "multiplies_narrow", lambda: False)
    model = ours(*theirs(), torch.bfloat16)
    before = model.vision_tower(pixels())
    SlicedTower(model)
    after = model.vision_tower(pixels())
    assert after.dtype == torch.bfloat16
    assert relative(after, before.float()) < 2**-6


def test_other_layers_than_plain_ones_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tower that is quantized multiplies as its layers say."""
    monkeypatch.setattr(tower_module, "multiplies_narrow", lambda: False)
    model = ours(*theirs(), torch.bfloat16)
    expected = SlicedTower(ours(*theirs(), torch.bfloat16)).encode(pixels())
    layer = model.vision_tower.vision_model.encoder.layers[0].mlp.fc1
    plain = layer.quant_method

    class Quantized:
        def apply(self, *args: Any) -> Any:
            return plain.apply(*args)

    layer.quant_method = Quantized()
    sliced = SlicedTower(model)
    assert sliced.dtype == torch.bfloat16
    assert relative(sliced.encode(pixels()), expected.float()) < 2**-5


def test_a_worker_follows_what_it_is_told(sliced: SlicedTower) -> None:
    encoder, cache = Encoder(sliced), dict[str, torch.Tensor]()
    units = CROPS * sliced.shape.units_of_crop
    data = {"pixel_values": SimpleNamespace(data=pixels())}
    assert encoder.follow(Instruction((), Slice("cat", 0, 5, units, data)), cache) > 0
    assert cache == {}
    encoder.follow(Instruction((), Slice("cat", 5, units, units, None)), cache)
    assert torch.equal(cache["cat"], sliced.encode(pixels()).flatten(0, 1))
    encoder.follow(Instruction((), Slice("dog", 0, 5, units, data)), cache)
    encoder.follow(Instruction(("dog",), None), cache)
    assert list(cache) == ["cat"]
    with pytest.raises(KeyError):
        encoder.follow(Instruction((), Slice("dog", 5, 6, units, None)), cache)
