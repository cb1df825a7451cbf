"""Experts that lie in one tensor become a matrix each, with the codes of a checkpoint that has them so."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from octet.quantize import anatomy, pieces, plan
from octet.quantize.errors import QuantizeError
from octet.quantize.options import Format
from tests.quantize.conftest import Quantize

EXPERTS, HIDDEN, INNER = 3, 64, 48
CONFIG = {
    "architectures": ["Llama4ForCausalLM"],
    "model_type": "llama4_text",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "intermediate_size_mlp": INNER,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "num_local_experts": EXPERTS,
    "interleave_moe_layer_step": 1,
    "vocab_size": 32,
}
EXPERT = "model.layers.0.feed_forward.experts."


@pytest.fixture(autouse=True)
def _asked_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process would import torch again for each test; `test_asks_another_process` has one."""
    monkeypatch.setattr(plan, "ask", anatomy.describe)


def matrices(inner: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Experts' weights [out, in], by the names of linear layers."""
    generator = torch.Generator().manual_seed(1)
    shapes = {"gate_proj": (inner, HIDDEN), "up_proj": (inner, HIDDEN), "down_proj": (HIDDEN, inner)}
    return {
        f"{EXPERT}{expert}.{name}.weight": torch.randn(shape, generator=generator).to(dtype)
        for expert in range(EXPERTS)
        for name, shape in shapes.items()
    }


def stacks(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same as Llama 4 has them: [experts, in, out], gates before the other outputs."""

    def of(name: str) -> list[torch.Tensor]:
        return [weights[f"{EXPERT}{expert}.{name}.weight"].T for expert in range(EXPERTS)]

    gate_up = [torch.cat(pair, dim=1) for pair in zip(of("gate_proj"), of("up_proj"), strict=True)]
    return {f"{EXPERT}gate_up_proj": torch.stack(gate_up), f"{EXPERT}down_proj": torch.stack(of("down_proj"))}


def write(directory: Path, tensors: dict[str, torch.Tensor], **config: object) -> Path:
    directory.mkdir()
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, directory / "model.safetensors"
    )
    (directory / "config.json").write_text(json.dumps(CONFIG | config))
    return directory


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[name].dtype is b[name].dtype and torch.equal(a[name].view(torch.uint8), b[name].view(torch.uint8))
        for name in a
    )


@pytest.mark.parametrize("inner", [INNER, HIDDEN, HIDDEN // 2], ids=["oblong", "square down", "square gates"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_stack_becomes_what_its_matrices_would(
    tmp_path: Path, quantize: Quantize, inner: int, dtype: torch.dtype
) -> None:
    weights = matrices(inner, dtype)
    sizes = {"intermediate_size": inner}
    one_by_one = write(tmp_path / "matrices", weights, **sizes)
    together = write(tmp_path / "stacks", stacks(weights), **sizes)
    quantize(one_by_one, tmp_path / "expected", blocks=r"model\.layers\.", verify=True)
    result = quantize(together, tmp_path / "made", verify=True)
    assert same(
        load_file(tmp_path / "made/model.safetensors"), load_file(tmp_path / "expected/model.safetensors")
    )
    assert result.errors is not None
    assert min(error.error.sqnr for error in result.errors) > 25


@pytest.mark.parametrize("at_a_time", [14, 62, 4000])
def test_in_pieces_as_well(
    tmp_path: Path, quantize: Quantize, monkeypatch: pytest.MonkeyPatch, at_a_time: int
) -> None:
    """However much is read at a time: pieces of lines, lines whose end is narrow, whole ones."""
    source = write(tmp_path / "source", stacks(matrices(INNER, torch.bfloat16)))
    quantize(source, tmp_path / "expected")
    monkeypatch.setattr(pieces, "PIECE_BYTES", 1000)
    monkeypatch.setattr(pieces, "_READ_BYTES", at_a_time)
    monkeypatch.setattr(pieces, "_STRIP", 5)
    quantize(source, tmp_path / "made", workers=3, verify=True)
    assert same(
        load_file(tmp_path / "made/model.safetensors"), load_file(tmp_path / "expected/model.safetensors")
    )


def test_upright_stacks(tmp_path: Path, quantize: Quantize) -> None:
    """Granite's: [experts, out, in], under a name that says nothing of experts."""
    weights = matrices(INNER, torch.bfloat16)
    block = "model.layers.0.block_sparse_moe."
    renamed = {name.replace(EXPERT, f"{block}experts."): weight for name, weight in weights.items()}
    stacked = stacks(weights)
    upright = {
        f"{block}input_linear.weight": stacked[f"{EXPERT}gate_up_proj"].mT,
        f"{block}output_linear.weight": stacked[f"{EXPERT}down_proj"].mT,
        f"{block}router.layer.weight": torch.zeros(EXPERTS, HIDDEN, dtype=torch.bfloat16),
    }
    granite = {"architectures": ["GraniteMoeForCausalLM"], "model_type": "granitemoe"}
    source = write(tmp_path / "source", upright, **granite)
    quantize(source, tmp_path / "made")
    quantize(write(tmp_path / "matrices", renamed), tmp_path / "expected", blocks="model")
    made = load_file(tmp_path / "made/model.safetensors")
    assert torch.equal(made.pop(f"{block}router.layer.weight"), upright[f"{block}router.layer.weight"])
    assert same(made, load_file(tmp_path / "expected/model.safetensors"))
    config = json.loads((tmp_path / "made/config.json").read_text())["quantization_config"]
    assert config["ignore"] == [f"{block}router.layer", "lm_head"]


def test_experts_that_stay_are_copied_as_they_lie(tmp_path: Path, quantize: Quantize) -> None:
    experts = stacks(matrices(INNER, torch.bfloat16))
    weights = {"model.layers.0.self_attn.q_proj.weight": torch.ones(64, HIDDEN, dtype=torch.bfloat16)}
    source = write(tmp_path / "source", experts | weights)
    quantize(source, tmp_path / "made", ignore=("lm_head", "re:.*experts.*"))
    made = load_file(tmp_path / "made/model.safetensors")
    assert all(torch.equal(made[name], experts[name]) for name in experts)
    config = json.loads((tmp_path / "made/config.json").read_text())["quantization_config"]
    assert {f"{EXPERT}0.gate_proj", f"{EXPERT}2.down_proj"} <= set(config["ignore"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ignore": (f"{EXPERT}1.up_proj",)}, "take some of them only"),
        ({"ignore": ("re:.*gate_proj",)}, "take some of them only"),
        ({"weights": Format.E5M2}, "Octet's own formats hold no mixtures of experts; --ignore"),
        ({"blocks": "model"}, "only a family tells how .* lies: name it by --like"),
    ],
)
def test_what_vllm_could_not_load(
    tmp_path: Path, quantize: Quantize, options: dict[str, object], words: str
) -> None:
    source = write(tmp_path / "source", stacks(matrices(INNER, torch.bfloat16)))
    with pytest.raises(QuantizeError, match=words) as raised:
        quantize(source, tmp_path / "made", **options)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "made").exists()


def test_experts_with_biases_are_refused(tmp_path: Path, quantize: Quantize) -> None:
    """gpt-oss in bf16: vLLM's FP8 experts have no biases."""
    block = "model.layers.0.mlp.experts."
    experts = {
        name.replace(EXPERT, block): weight
        for name, weight in stacks(matrices(INNER, torch.bfloat16)).items()
    }
    experts |= {
        f"{block}gate_up_proj_bias": torch.zeros(EXPERTS, 2 * INNER, dtype=torch.bfloat16),
        f"{block}down_proj_bias": torch.zeros(EXPERTS, HIDDEN, dtype=torch.bfloat16),
    }
    config = {"architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss"}
    source = write(tmp_path / "source", experts, **config)
    with pytest.raises(QuantizeError, match="vLLM has no FP8 for experts with biases; --ignore"):
        quantize(source, tmp_path / "made")


def test_asks_another_process(tmp_path: Path, quantize: Quantize, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "source", stacks(matrices(INNER, torch.bfloat16)))
    quantize(source, tmp_path / "here")
    monkeypatch.setattr(plan, "ask", anatomy.ask)
    quantize(source, tmp_path / "there")
    assert same(
        load_file(tmp_path / "here/model.safetensors"), load_file(tmp_path / "there/model.safetensors")
    )


@pytest.fixture
def nobody_s(tmp_path: Path) -> Path:
    """A checkpoint of an architecture that nobody knows, with Llama's names."""
    generator = torch.Generator().manual_seed(2)
    names = ["lm_head", "model.embed_tokens", "model.layers.0.mlp.up_proj", "model.layers.0.self_attn.k_proj"]
    tensors = {
        f"{name}.weight": torch.randn(32, HIDDEN, generator=generator).to(torch.bfloat16) for name in names
    }
    return write(tmp_path / "source", tensors, architectures=["NobodysForCausalLM"], model_type="nobodys")


def test_a_checkpoint_that_nobody_knows(nobody_s: Path, tmp_path: Path, quantize: Quantize) -> None:
    with pytest.raises(
        QuantizeError, match=r"has no NobodysForCausalLM; --like names a family .* and --blocks"
    ):
        quantize(nobody_s, tmp_path / "made")
    quantize(nobody_s, tmp_path / "like", like="LlamaForCausalLM")
    quantize(nobody_s, tmp_path / "blocks", blocks=r"model\.layers\.\d+\.")
    like, blocks = (load_file(tmp_path / name / "model.safetensors") for name in ("like", "blocks"))
    assert same(like, blocks)
    assert "--like LlamaForCausalLM" in (tmp_path / "like/README.md").read_text()
    quantize(nobody_s, tmp_path / "derived", like="MinistralForCausalLM")
    assert same(like, load_file(tmp_path / "derived/model.safetensors"))


@pytest.mark.parametrize("pattern", ["(", "[a-", "nothing"])
def test_patterns_that_say_nothing(nobody_s: Path, tmp_path: Path, quantize: Quantize, pattern: str) -> None:
    with pytest.raises(QuantizeError, match=r"is no regular expression|no linear layer is left") as raised:
        quantize(nobody_s, tmp_path / "made", blocks=pattern)
    assert "\n" not in str(raised.value)
