"""Every rule of octet.loading against vLLM's own loaders: tiny checkpoints, each loaded in this process.

vLLM is told to take no parameter for loaded that no tensor went to, which it would do without a word for
quantized checkpoints otherwise.
"""

import copy
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from octet.engine.vllm.launch import weights as launch_weights
from octet.errors import StartupError
from octet.inspection import inspect, services
from octet.ops import reference
from tests.e2e.one_rank import one_rank

Tensors = dict[str, torch.Tensor]
Change = Callable[[dict[str, Any], Tensors], None]

TEXT = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 64,
}
VISION = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
CHANNEL = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel", "dynamic": False}
TOKEN = CHANNEL | {"strategy": "token", "dynamic": True}
LAYER = "model.layers.1."


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**TEXT, tie_word_embeddings=False))


def mixture() -> Any:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**TEXT, **sizes, tie_word_embeddings=False))


def gemma3() -> Any:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    vision = VISION | {"vision_use_head": False}
    return Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=TEXT | {"sliding_window": 16}, vision_config=vision, mm_tokens_per_image=4)
    )


def llava() -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    text = LlamaConfig(**TEXT, tie_word_embeddings=False)
    vision = CLIPVisionConfig(**VISION, projection_dim=64)
    return LlavaForConditionalGeneration(
        LlavaConfig(text_config=text, vision_config=vision, image_token_index=63, tie_word_embeddings=False)
    )


@dataclass(frozen=True)
class Base:
    """An unquantized checkpoint: its config.json and its tensors, under the names that transformers saves."""

    config: dict[str, Any]
    tensors: Tensors


FAMILIES = {"llama": llama, "mixture": mixture, "gemma3": gemma3, "llava": llava}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Base]:
    """One of each family, random."""
    from safetensors.torch import load_file

    found = {}
    torch.manual_seed(0)
    for name, build in FAMILIES.items():
        folder = tmp_path_factory.mktemp(name)
        build().to(torch.bfloat16).save_pretrained(folder)
        tensors = load_file(folder / "model.safetensors")
        names = {
            tensor: re.sub(r"vision_tower\.(?!vision_model)", "vision_tower.vision_model.", tensor)
            for tensor in tensors
        }
        if name == "gemma3":  # as transformers has them
            names = {
                tensor: re.sub(
                    r"^(?=vision_tower|multi_modal)",
                    "model.",
                    found.replace("language_model.model", "model.language_model"),
                )
                for tensor, found in names.items()
            }
        found[name] = Base(
            json.loads((folder / "config.json").read_text()),
            {names[tensor]: value for tensor, value in tensors.items()},
        )
    return found


@pytest.fixture(autouse=True)
def without_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """As vLLM's worker on CPUs has it."""
    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: None)


@pytest.fixture(scope="module", autouse=True)
def in_one_rank() -> Iterator[None]:
    from octet.engine.vllm import plugin

    plugin.register()
    with one_rank():
        yield


def vllm_s_refusal(folder: Path) -> str | None:
    """What vLLM says when it loads a checkpoint; None when every one of its parameters is in it.

    What it passes over without a word is an error here: scales and codes that do not arrive.
    """
    from vllm.config import set_current_vllm_config
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader import get_model, utils

    arguments = EngineArgs(
        model=str(folder),
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=32,
        model_loader_extra_config={"enable_weights_track": True},
    )
    try:
        config = arguments.create_engine_config()
        with torch.no_grad(), set_current_vllm_config(config), pytest.MonkeyPatch.context() as patch:
            patch.setattr(utils, "maybe_retie_word_embeddings", lambda model, _: check_arrived(model, folder))
            get_model(vllm_config=config)
    except Exception as error:  # whatever it may be
        return f"{type(error).__name__}: {error}"
    return None


def check_arrived(model: torch.nn.Module, folder: Path) -> None:
    """Raises where a scale was not loaded, or not all codes were; called before the layers change them."""
    from safetensors.torch import load_file

    parameters = dict(model.named_parameters())
    unset = [name for name, value in parameters.items() if name.endswith("_scale") and not (value > 0).all()]
    if unset := [name for name in unset if "weight" in name or "input" in name]:
        raise ValueError(f"{unset[0]} was not loaded")
    stored = [value for value in load_file(folder / "model.safetensors").values() if is_codes(value)]
    loaded = [value for value in parameters.values() if is_codes(value)]
    if sum(value.numel() for value in stored) != sum(value.numel() for value in loaded):
        raise ValueError("not all codes were loaded")


def is_codes(value: torch.Tensor) -> bool:
    return value.dtype in (torch.float8_e4m3fn, torch.float8_e5m2)


def write(folder: Path, config: dict[str, Any], tensors: Tensors) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def encode(tensors: Tensors, name: str, fp8: torch.dtype = torch.float8_e4m3fn) -> None:
    codes, scale = reference.per_token_quant_fp8(tensors[name].float(), fp8)
    tensors[name], tensors[f"{name}_scale"] = codes, scale.to(torch.bfloat16)


def compressed_tensors(ignore: list[str], **group: Any) -> dict[str, Any]:
    described = {"targets": ["Linear"], "weights": CHANNEL, "input_activations": TOKEN}
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "ignore": ignore,
        "config_groups": {"group_0": described | group},
    }


def octet_fp8(ignore: list[str]) -> dict[str, Any]:
    return {"quant_method": "octet_fp8", "weights": "e4m3", "activations": "e4m3", "ignore": ignore}


IN_TEXT = re.compile(r"(language_model\.)?model\.(language_model\.)?layers\..*_proj\.weight")


def quantized(base: Base) -> tuple[dict[str, Any], Tensors]:
    """A base with the language model's linear layers as codes, and all others ignored by their names."""
    tensors = dict(base.tensors)
    for name in base.tensors:
        if IN_TEXT.fullmatch(name):
            encode(tensors, name)
    ignore = [
        name.removesuffix(".weight")
        for name, tensor in base.tensors.items()
        if name.endswith(".weight") and tensor.dim() == 2 and not IN_TEXT.fullmatch(name)
    ]
    if "lm_head" not in ignore:
        ignore.append("lm_head")
    config = copy.deepcopy(base.config)
    config["quantization_config"] = compressed_tensors([n for n in ignore if "embed" not in n])
    return config, tensors


# Changes of a checkpoint of which vLLM loads all that is there.


def nothing(config: dict[str, Any], tensors: Tensors) -> None:
    """As it is."""


def octet_s_method(config: dict[str, Any], tensors: Tensors) -> None:
    config["quantization_config"] = octet_fp8(config["quantization_config"]["ignore"])


def plain(tensors: Tensors, module: str) -> None:
    """Stores a module as bf16 again."""
    tensors[f"{module}.weight"] = tensors[f"{module}.weight"].to(torch.bfloat16)
    del tensors[f"{module}.weight_scale"]


def ignoring(*modules: str, parts: tuple[str, ...] = ()) -> Change:
    """Ignores modules, and stores them, or `parts`, unquantized."""

    def change(config: dict[str, Any], tensors: Tensors) -> None:
        config["quantization_config"]["ignore"] += modules
        for module in parts or modules:
            plain(tensors, module)

    return change


QKV = tuple(f"{LAYER}self_attn.{name}_proj" for name in "qkv")
GATE_UP = tuple(f"{LAYER}mlp.{name}_proj" for name in ("gate", "up"))


def tied(config: dict[str, Any], tensors: Tensors) -> None:
    config["tie_word_embeddings"] = True
    del tensors["lm_head.weight"]


def described(method: Callable[[dict[str, Any]], None]) -> Change:
    """Changes the one group of a config."""

    def change(config: dict[str, Any], tensors: Tensors) -> None:
        group = copy.deepcopy(config["quantization_config"]["config_groups"]["group_0"])
        config["quantization_config"]["config_groups"]["group_0"] = group
        method(group)

    return change


def saying(**said: Any) -> Change:
    """Changes the quantization_config."""

    def change(config: dict[str, Any], tensors: Tensors) -> None:
        config["quantization_config"] |= said

    return change


def weights(**numbers: Any) -> Change:
    return described(lambda group: group.update(weights=group["weights"] | numbers))


def activations(**numbers: Any) -> Change:
    return described(lambda group: group.update(input_activations=group["input_activations"] | numbers))


def scaled(shape: Callable[[torch.Tensor], tuple[int, ...]], dtype: torch.dtype = torch.bfloat16) -> Change:
    """Gives every weight scales of another shape, of its codes."""

    def change(config: dict[str, Any], tensors: Tensors) -> None:
        for name in [name for name in tensors if name.endswith(".weight_scale")]:
            tensors[name] = torch.ones(shape(tensors[name.removesuffix("_scale")]), dtype=dtype)

    return change


def both(*changes: Change) -> Change:
    def change(config: dict[str, Any], tensors: Tensors) -> None:
        for each in changes:
            each(config, tensors)

    return change


def per_tensor(config: dict[str, Any], tensors: Tensors) -> None:
    both(weights(strategy="tensor"), scaled(lambda weight: (1,), torch.float32))(config, tensors)


def input_scales(config: dict[str, Any], tensors: Tensors) -> None:
    for name in [name for name in tensors if name.endswith(".weight_scale")]:
        tensors[name.replace(".weight_scale", ".input_scale")] = torch.ones(1)


def head_as_codes(config: dict[str, Any], tensors: Tensors) -> None:
    encode(tensors, "lm_head.weight")
    config["quantization_config"]["ignore"].remove("lm_head")


def head_named(config: dict[str, Any], tensors: Tensors) -> None:
    head_as_codes(config, tensors)
    config["quantization_config"]["config_groups"]["group_0"]["targets"] = ["Linear", "re:.*lm_head$"]


def as_codes(module: str) -> Change:
    return lambda config, tensors: encode(tensors, f"{module}.weight")


def without_ignored(part: str) -> Change:
    def change(config: dict[str, Any], tensors: Tensors) -> None:
        said = config["quantization_config"]
        said["ignore"] = [name for name in said["ignore"] if part not in name]

    return change


def without(part: str) -> Change:
    def change(config: dict[str, Any], tensors: Tensors) -> None:
        for name in [name for name in tensors if part in name]:
            del tensors[name]

    return change


def experts_as_codes(config: dict[str, Any], tensors: Tensors) -> None:
    """What save_pretrained writes: an expert's layers by their own names."""
    assert any(".experts.3.down_proj.weight_scale" in name for name in tensors)


GOOD: dict[str, tuple[str, Change]] = {
    "as octet quantize writes it": ("llama", nothing),
    "octet's own method": ("llama", octet_s_method),
    "all parts of a fused layer ignored": ("llama", ignoring(*QKV, *GATE_UP)),
    "the fused layer's own name": ("llama", ignoring(r"re:.*layers\.1\..*qkv_proj", parts=QKV)),
    "parts by a pattern": ("llama", ignoring(r"re:.*layers\.1\..*\.(gate|up)_proj", parts=GATE_UP)),
    "an output layer that shares the embedding": ("llama", tied),
    "patterns that name nothing": (
        "llama",
        saying(ignore=["lm_head", "model.layers.9.q_proj", "re:vision.*"]),
    ),
    "a KV cache of FP8": (
        "llama",
        saying(kv_cache_scheme={"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True}),
    ),
    "scales in f32": ("llama", scaled(lambda weight: (weight.shape[0], 1), torch.float32)),
    "a quantized output layer, named": ("llama", head_named),
    "targets by patterns": ("llama", described(lambda group: group.update(targets=["re:.*_proj"]))),
    "targets by parts": (
        "llama",
        described(lambda group: group.update(targets=[rf"re:.*\.{n}_proj" for n in "qkvo"] + ["re:.*mlp.*"])),
    ),
    "attention's group": (
        "llama",
        lambda config, tensors: config["quantization_config"]["config_groups"].update(
            attention={"targets": ["LlamaAttention"], "weights": None}
        ),
    ),
    "a tower": ("gemma3", nothing),
    "a tower under vLLM's names": (
        "gemma3",
        both(without_ignored("vision_tower"), saying(ignore=["re:vision_tower.*", "lm_head"])),
    ),
    "another tower": ("llava", nothing),
    "a tower that vLLM never quantizes, and nothing leaves out": ("llava", without_ignored("vision_tower")),
    "an output layer of its own that is said to be shared": (
        "llama",
        both(head_named, lambda config, tensors: config.update(tie_word_embeddings=True)),
    ),
}

UNMULTIPLIED: dict[str, tuple[str, Change, str]] = {
    "one scale per tensor": ("llama", per_tensor, "one scale per tensor"),
    "static activations": (
        "llama",
        both(per_tensor, input_scales, activations(strategy="tensor", dynamic=False)),
        "one scale per tensor",
    ),
    "experts": ("mixture", experts_as_codes, "FP8 experts"),
    "blocks": (
        "llama",
        both(
            weights(strategy="block", block_structure=[32, 32]),
            scaled(lambda weight: (-(-weight.shape[0] // 32), -(-weight.shape[1] // 32))),
        ),
        "one scale per block",
    ),
    "activations that are not quantized": (
        "llama",
        described(lambda group: group.update(input_activations=None)),
        "unquantized activations",
    ),
}

BAD: dict[str, tuple[str, Change, str]] = {
    "q ignored alone": ("llama", ignoring(QKV[0]), "some are quantized and some not"),
    "gate ignored alone": ("llama", ignoring(GATE_UP[0]), "some are quantized and some not"),
    "q named alone, all stored alike": (
        "llama",
        both(ignoring(QKV[0], parts=QKV)),
        "names q_proj alone",
    ),
    "k unquantized, and nothing says so": (
        "llama",
        lambda config, tensors: plain(tensors, QKV[1]),
        "some are quantized and some not",
    ),
    "a layer unquantized, and nothing says so": (
        "llama",
        lambda config, tensors: plain(tensors, f"{LAYER}mlp.down_proj"),
        "does not leave it out",
    ),
    "a layer quantized, and ignored": (
        "llama",
        saying(ignore=["lm_head", f"{LAYER}mlp.down_proj"]),
        "leaves it unquantized",
    ),
    "quantized layers that no target names": (
        "llama",
        described(lambda group: group.update(targets=["re:.*self_attn.*"])),
        "leaves it unquantized",
    ),
    "targets of one part": (
        "llama",
        described(lambda group: group.update(targets=[r"re:.*\.q_proj", "re:.*o_proj", "re:.*mlp.*"])),
        "leaves it unquantized",
    ),
    "a pattern that is none": ("llama", saying(ignore=["lm_head", "re:*.foo"]), "is no regular expression"),
    "scales without their second dimension": (
        "llama",
        scaled(lambda weight: (weight.shape[0],)),
        "no weight_scale of one value per output channel",
    ),
    "one scale, where each channel should have one": (
        "llama",
        scaled(lambda weight: (1,)),
        "no weight_scale of one value per output channel",
    ),
    "a scale per channel, where there should be one": (
        "llama",
        weights(strategy="tensor"),
        "no weight_scale of a single value",
    ),
    "no scales": ("llama", without("weight_scale"), "no weight_scale"),
    "no input scales": (
        "llama",
        both(per_tensor, activations(strategy="tensor", dynamic=False)),
        "no input_scale",
    ),
    "an output layer that nothing names": ("llama", head_as_codes, "does not say that the output layer"),
    "an output layer that is not stored so": (
        "llama",
        lambda config, tensors: config["quantization_config"].update(
            compressed_tensors([], targets=["Linear", "re:.*lm_head$"])
        ),
        "it is not stored so",
    ),
    "no output layer": ("llama", without("lm_head"), "no output layer is stored"),
    "no output layer, and a silent config": (
        "llama",
        both(without("lm_head"), lambda config, tensors: config.pop("tie_word_embeddings")),
        "no output layer is stored",
    ),
    "a format without activations": ("llama", both(saying(format=None)), "vLLM does not know FP8 weights in"),
    "codes packed otherwise": ("llama", saying(format="pack-quantized"), "vLLM does not know FP8 weights in"),
    "asymmetric weights": ("llama", weights(symmetric=False), "not symmetric"),
    "int8 activations": ("llama", activations(type="int"), "int8 activations beside FP8 weights"),
    "a KV cache of int8": (
        "llama",
        saying(kv_cache_scheme={"num_bits": 8, "type": "int", "strategy": "tensor", "symmetric": True}),
        "kv_cache_scheme",
    ),
    "codes without a quantization_config": (
        "llama",
        lambda config, tensors: config.pop("quantization_config"),
        "has no quantization_config",
    ),
    "a tower that nothing leaves out": ("gemma3", without_ignored("vision_tower"), "does not leave it out"),
    "a tower left out by the checkpoint's names": (
        "gemma3",
        both(
            without_ignored("vision_tower"),
            saying(ignore=[r"re:model\.vision_tower\..*", "lm_head", r"re:model\.multi_modal.*"]),
        ),
        "does not leave it out",
    ),
    "the language model left out by vLLM's names": (
        "gemma3",
        lambda config, tensors: config["quantization_config"]["ignore"].append("re:language_model.*"),
        "leaves it unquantized",
    ),
}


def test_octet_serve_does_not_start_on_what_breaks_a_rule(bases: dict[str, Base], tmp_path: Path) -> None:
    from vllm.engine.arg_utils import EngineArgs

    good = made(bases, "llama", nothing, tmp_path / "good")
    bad = made(bases, "llama", BAD["no output layer"][1], tmp_path / "bad")
    launch_weights.check(EngineArgs(model=str(good), skip_tokenizer_init=True).create_engine_config())
    config = EngineArgs(model=str(bad), skip_tokenizer_init=True).create_engine_config()
    with pytest.raises(
        StartupError, match=r"^cannot serve .*bad: no output layer is stored.*octet inspect says"
    ):
        launch_weights.check(config)
    config.load_config.load_format = "dummy"
    launch_weights.check(config)


@pytest.mark.parametrize("case", UNMULTIPLIED)
def test_what_no_kernel_multiplies_here_is_not_served_here(
    bases: dict[str, Base], tmp_path: Path, case: str
) -> None:
    family, change, words = UNMULTIPLIED[case]
    folder = made(bases, family, change, tmp_path / "made")
    inspection = inspect(str(folder))
    assert inspection.problems == ()
    refusal = vllm_s_refusal(folder)
    cpu, cuda = services(inspection)
    assert cpu.here
    assert cpu.served == (refusal is None)
    assert cuda.served
    if refusal is not None:
        assert re.search("Failed to find a kernel|_scaled_fp8_quant|MoE backend", refusal)
        assert words in cpu.detail


@pytest.fixture
def experts_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has vLLM load experts for which it has no kernel here, and stop before it prepares them for one."""
    from vllm.model_executor.layers.fused_moe.oracle.fp8 import Fp8MoeBackend
    from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors_moe import (
        compressed_tensors_moe_w8a8_fp8 as moe,
    )

    monkeypatch.setattr(moe, "select_fp8_moe_backend", lambda *_, **__: (Fp8MoeBackend.TRITON, None))
    monkeypatch.setattr(
        moe.CompressedTensorsW8A8Fp8MoEMethod, "process_weights_after_loading", lambda self, layer: None
    )


EXPERTS: dict[str, tuple[Change, str | None]] = {
    "all quantized": (experts_as_codes, None),
    "those of a layer ignored": (
        lambda config, tensors: ignoring(*experts(tensors, r"\.1\.mlp"))(config, tensors),
        None,
    ),
    "one of them unquantized": (
        lambda config, tensors: (
            [plain(tensors, name) for name in experts(tensors, r"\.1\.mlp\.experts\.0")] and None
        ),
        "some are quantized and some not",
    ),
    "one layer of each ignored": (
        lambda config, tensors: ignoring(*experts(tensors, r"\.1\..*down"))(config, tensors),
        "some are quantized and some not",
    ),
    "octet's own method": (octet_s_method, "quantized experts"),
}


def experts(tensors: Tensors, part: str) -> list[str]:
    """Names of experts' layers that `part` is found in."""
    names = [name.removesuffix(".weight") for name in tensors if name.endswith(".weight")]
    return [name for name in names if ".experts." in name and re.search(part, name)]


@pytest.mark.parametrize("case", EXPERTS)
def test_experts_are_quantized_as_a_whole(
    bases: dict[str, Base], tmp_path: Path, experts_without_kernels: None, case: str
) -> None:
    change, words = EXPERTS[case]
    folder = made(bases, "mixture", change, tmp_path / "made")
    problems = inspect(str(folder)).problems
    assert bool(problems) == bool(words)
    assert words is None or words in problems[0]
    assert (vllm_s_refusal(folder) is None) == (words is None)


def made(bases: dict[str, Base], family: str, change: Change, folder: Path) -> Path:
    config, tensors = quantized(bases[family])
    change(config, tensors)
    return write(folder, config, tensors)


@pytest.mark.parametrize("case", GOOD)
def test_what_keeps_the_rules_is_loaded(bases: dict[str, Base], tmp_path: Path, case: str) -> None:
    folder = made(bases, *GOOD[case], tmp_path / "made")
    assert inspect(str(folder)).problems == ()
    assert vllm_s_refusal(folder) is None


@pytest.mark.parametrize("case", BAD)
def test_what_breaks_a_rule_is_not(bases: dict[str, Base], tmp_path: Path, case: str) -> None:
    family, change, words = BAD[case]
    folder = made(bases, family, change, tmp_path / "made")
    problems = inspect(str(folder)).problems
    assert any(words in problem for problem in problems), problems
    assert all("\n" not in problem for problem in problems)
    assert vllm_s_refusal(folder) is not None
