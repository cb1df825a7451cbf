"""LoRA adapters merged while a checkpoint is quantized, compared with PEFT's own merging."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from octet.cli.quantize import quantize as quantize_command
from octet.quantize import pieces
from octet.quantize.checkpoint import quantize_checkpoint
from octet.quantize.errors import QuantizeError
from octet.quantize.options import Format, Options
from octet.quantize.plan import make_plan
from octet.quantize.source import open_source
from tests.quantize.conftest import GOLDEN, Quantize, silent

Change = Callable[[dict[str, torch.Tensor]], Any]

ADAPTERS = Path(__file__).parent / "adapters"
CASES = sorted(path.name for path in ADAPTERS.iterdir())
BFLOAT16 = GOLDEN / "llama-bfloat16-untied/source"
TIED = GOLDEN / "llama-float16-tied/source"


def base_of(case: str) -> Path:
    return GOLDEN / (ADAPTERS / case / "base").read_text().strip() / "source"


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return {name: each for path in directory.glob("*.safetensors") for name, each in load_file(path).items()}


def merge(base: Path, adapter: Path, made: Path, **options: object) -> None:
    quantize_checkpoint(open_source(str(base), adapter=adapter), made, Options(**options), silent)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", CASES)
def test_tensors_become_what_peft_makes_of_them(case: str) -> None:
    """All that it changes, nothing else, to the last bits of float32."""
    plan = make_plan(open_source(str(base_of(case)), adapter=ADAPTERS / case), Options())
    expected, stored = load_file(ADAPTERS / case / "merged.safetensors"), weights(base_of(case))
    changed = {
        tensor.source.name: tensor.change.rows(0, stored[tensor.source.name].numpy().tobytes())
        for shard in plan.shards
        for tensor in shard.tensors
        if tensor.change is not None
    }
    # A module that was saved as it was before training is named too, and stays as it is.
    for name in changed.keys() - expected.keys():
        expected[name] = stored[name]
    assert changed.keys() == expected.keys()
    for name, values in changed.items():
        merged = torch.from_numpy(values.copy()).reshape(expected[name].shape)
        torch.testing.assert_close(merged, expected[name], rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("piece_bytes", [64, 4 << 20])
def test_a_merged_checkpoint_is_quantized(
    tmp_path: Path, quantize: Quantize, monkeypatch: pytest.MonkeyPatch, case: str, piece_bytes: int
) -> None:
    """As one whose tensors PEFT has merged before."""
    merged = weights(base_of(case)) | load_file(ADAPTERS / case / "merged.safetensors")
    shutil.copytree(base_of(case), tmp_path / "source")
    for path in (tmp_path / "source").glob("*.safetensors"):
        save_file({name: merged[name] for name in load_file(path)}, path, metadata={"format": "pt"})
    quantize(tmp_path / "source", tmp_path / "expected")
    monkeypatch.setattr(pieces, "PIECE_BYTES", piece_bytes)
    merge(base_of(case), ADAPTERS / case, tmp_path / "made", verify=True)
    expected, made = weights(tmp_path / "expected"), weights(tmp_path / "made")
    assert {name: each.dtype for name, each in made.items()} == {
        name: each.dtype for name, each in expected.items()
    }
    for name, each in expected.items():
        if each.dtype == torch.float8_e4m3fn:
            # The last bit of a sum may decide to which code a weight is rounded.
            assert (made[name].view(torch.uint8) != each.view(torch.uint8)).sum() <= 2, name
        else:
            torch.testing.assert_close(made[name], each, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize(("format_", "largest"), [(Format.E4M3, 448), (Format.E5M2, 57344)])
def test_half_precision_is_merged_and_quantized_in_float32(
    tmp_path: Path, format_: Format, largest: int
) -> None:
    """What is quantized never saw bfloat16 again; what is not is rounded to it once."""
    case = ADAPTERS / "rslora-with-saved-modules"
    merge(BFLOAT16, case, tmp_path / "made", weights=format_)
    made, stored, adapter = (
        weights(tmp_path / "made"),
        weights(BFLOAT16),
        load_file(case / "adapter_model.safetensors"),
    )
    name = "model.layers.1.mlp.gate_proj"
    a, b = (adapter[f"base_model.model.{name}.lora_{part}.weight"].double() for part in "AB")
    merged = (stored[f"{name}.weight"].double() + b @ a * 3 / 4**0.5).float()
    scale = made[f"{name}.weight_scale"]
    assert scale.dtype == torch.float32
    torch.testing.assert_close(scale, merged.abs().amax(1, keepdim=True) / largest, rtol=1e-6, atol=0)
    codes = (merged / scale).to(getattr(torch, f"float8_{format_.value}{'fn' if largest == 448 else ''}"))
    assert (made[f"{name}.weight"].view(torch.uint8) != codes.view(torch.uint8)).sum() <= 2
    head = "lm_head.weight"
    assert torch.equal(made[head], adapter[f"base_model.model.{head}"].bfloat16())
    # Of an unchanged layer the scale is what it always was.
    assert made["model.layers.0.input_layernorm.weight"].dtype == torch.bfloat16


def test_a_layer_that_stays_unquantized_is_rounded_to_its_dtype(tmp_path: Path) -> None:
    case = ADAPTERS / "patterns"
    merge(BFLOAT16, case, tmp_path / "made", ignore=("lm_head", "re:.*down_proj"), verify=True)
    made, stored, adapter = (
        weights(tmp_path / "made"),
        weights(BFLOAT16),
        load_file(case / "adapter_model.safetensors"),
    )
    for name, factor in (("model.layers.0.mlp.down_proj", 2 / 3), ("model.layers.1.mlp.down_proj", 5 / 1)):
        a, b = (adapter[f"base_model.model.{name}.lora_{part}.weight"].double() for part in "AB")
        merged = (stored[f"{name}.weight"].double() + b @ a * factor).bfloat16()
        assert torch.equal(made[f"{name}.weight"], merged)


def test_the_embedding_that_an_output_layer_shares_changes_both(tmp_path: Path) -> None:
    """As a codes' tensor of its own, which is made of the merged embedding."""
    folder = tmp_path / "adapter"
    shutil.copytree(ADAPTERS / "embeddings", folder)
    kept = load_file(folder / "adapter_model.safetensors")
    kept = {name: each for name, each in kept.items() if "lm_head" not in name}
    save_file(kept, folder / "adapter_model.safetensors")
    merge(TIED, folder, tmp_path / "made", vocabulary=True)
    made = weights(tmp_path / "made")
    embedding = made["model.embed_tokens.weight"]
    assert embedding.dtype == torch.float16
    assert not torch.equal(embedding, weights(TIED)["model.embed_tokens.weight"])
    output = made["lm_head.weight"].float() * made["lm_head.weight_scale"].float()
    torch.testing.assert_close(output, embedding.float(), rtol=0.07, atol=0.01)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """One that a test may damage."""
    shutil.copytree(ADAPTERS / "patterns", tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.fixture
def refused(tmp_path: Path, adapter: Path) -> Callable[..., str]:
    """Merges what cannot be, and returns the error's line; nothing is left behind."""

    def run(base: Path = BFLOAT16) -> str:
        with pytest.raises(QuantizeError) as caught:
            merge(base, adapter, tmp_path / "made")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return run


def change_config(adapter: Path, **values: object) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_weights(adapter: Path, change: Change) -> None:
    found = load_file(adapter / "adapter_model.safetensors")
    change(found)
    save_file(found, adapter / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fan_in_fan_out", True),
        ("lora_bias", True),
        ("use_qalora", True),
        ("layer_replication", [[0, 1], [0, 1]]),
        ("trainable_token_indices", [1, 2]),
        ("target_parameters", ["experts.gate_up_proj"]),
        ("alora_invocation_tokens", [5]),
        ("megatron_config", {"tensor_model_parallel_size": 2}),
        ("use_bdlora", {"target_modules_bd_a": ["q_proj"]}),
        ("arrow_config", {"top_k": 3}),
        ("kasa_config", {"beta": 1}),
        ("something_of_tomorrow", 1),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", "corda"),
        ("init_lora_weights", "loftq"),
        ("init_lora_weights", "lora_ga"),
        ("peft_type", "IA3"),
        ("peft_type", None),
        ("r", None),
        ("lora_alpha", "8"),
        ("rank_pattern", ["q_proj"]),
        ("rank_pattern", {"(": 3}),
        ("alpha_pattern", {"v_proj": None}),
    ],
)
def test_what_is_not_merged_is_refused_by_name(
    adapter: Path, refused: Callable[..., str], key: str, value: object
) -> None:
    change_config(adapter, **{key: value})
    message = refused()
    assert message.startswith(f"{adapter / 'adapter_config.json'}: {key} ")


@pytest.mark.parametrize("start", [False, "gaussian", "eva", "orthogonal"])
def test_a_start_that_leaves_the_base_alone_is_merged(tmp_path: Path, adapter: Path, start: object) -> None:
    change_config(adapter, init_lora_weights=start)
    merge(BFLOAT16, adapter, tmp_path / "made")


PREFIX = "base_model.model.model.layers.0."
Q_A, Q_B = f"{PREFIX}self_attn.q_proj.lora_A.weight", f"{PREFIX}self_attn.q_proj.lora_B.weight"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda w: w.pop(Q_B),
            f"tensor {Q_A} is not merged: of LoRA's tensors model.layers.0.self_attn.q_proj.weight has A",
        ),
        (
            lambda w: w.update({name.replace("q_proj", "qkv_proj"): w.pop(name) for name in (Q_A, Q_B)}),
            f"tensor {Q_A.replace('q_proj', 'qkv_proj')} has no place: the base has no such tensor",
        ),
        (
            lambda w: w.update({"base_model.model.score.weight": torch.zeros(2, 16)}),
            "tensor base_model.model.score.weight has no place: the base has no such tensor",
        ),
        (
            lambda w: w.update({f"{PREFIX}self_attn.q_proj.lora_B.bias": torch.zeros(16)}),
            f"tensor {PREFIX}self_attn.q_proj.lora_B.bias has no place",
        ),
        (
            lambda w: w.update({"base_model.model.lm_head.weight": torch.zeros(17, 16)}),
            "tensor base_model.model.lm_head.weight is for another model: it makes [17, 16] of "
            "lm_head.weight, which is [16, 16]",
        ),
        (
            lambda w: w.update({Q_A: torch.zeros(2, 8)}),
            f"tensor {Q_A} is for another model: it makes [16, 8] of model.layers.0.self_attn.q_proj.weight, "
            "which is [16, 16]",
        ),
        (
            lambda w: w.update({Q_A: torch.zeros(4, 16), Q_B: torch.zeros(16, 4)}),
            f"tensor {Q_A} is of rank 4, and adapter_config.json says 2",
        ),
        (lambda w: w.update({Q_A: torch.zeros(2, 16, 1)}), f"tensor {Q_A} is [2, 16, 1], no matrix"),
        (lambda w: w[Q_A].fill_(torch.nan), f"tensor {Q_A} holds NaN or an infinity"),
        (
            lambda w: w.update({Q_A: w[Q_A].to(torch.int8)}),
            f"tensor {Q_A} cannot be merged: its dtype is I8",
        ),
        (
            lambda w: w.update({f"{PREFIX}self_attn.q_proj.lora_magnitude_vector": torch.ones(16)}),
            f"tensor {Q_A} has a magnitude vector, and use_dora is False",
        ),
        (
            lambda w: w.update(
                {name.replace(".layers", ".x.layers"): w[name].clone() for name in (Q_A, Q_B)}
            ),
            "is for model.layers.0.self_attn.q_proj.weight, as ",
        ),
    ],
)
def test_every_tensor_has_to_find_its_place(
    adapter: Path, refused: Callable[..., str], change: Change, expected: str
) -> None:
    change_weights(adapter, change)
    message = refused()
    assert message.startswith(f"{adapter / 'adapter_model.safetensors'}: tensor ")
    assert expected in message


def test_dora_without_its_vectors(adapter: Path, refused: Callable[..., str]) -> None:
    change_config(adapter, use_dora=True)
    assert refused().endswith(" lacks a magnitude vector, and use_dora is True")


def test_an_output_layer_that_is_shared_cannot_change_alone(
    tmp_path: Path, adapter: Path, refused: Callable[..., str]
) -> None:
    """Though it may be saved as a copy of what the embedding becomes."""
    head, embedding = "base_model.model.lm_head.weight", "base_model.model.model.embed_tokens.weight"
    saved = torch.rand(16, 16)
    change_weights(adapter, lambda w: w.update({head: saved}))
    assert refused(TIED).endswith(
        f"tensor {head} cannot be merged: the base's output layer shares model.embed_tokens.weight, "
        "and would change alone"
    )
    change_weights(adapter, lambda w: w.update({embedding: saved + 1}))
    assert f"tensor {head} cannot be merged" in refused(TIED)
    change_weights(adapter, lambda w: w.update({embedding: saved.clone()}))
    merge(TIED, adapter, tmp_path / "made")
    assert torch.equal(weights(tmp_path / "made")["model.embed_tokens.weight"], saved.half())


def test_values_that_do_not_fit_are_an_error(adapter: Path, refused: Callable[..., str]) -> None:
    change_weights(
        adapter, lambda w: w.update({"base_model.model.model.norm.weight": torch.full((16,), 1e5)})
    )
    assert refused(TIED) == "tensor model.norm.weight with the adapter merged holds NaN or an infinity"


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_no_adapter(adapter: Path, refused: Callable[..., str], missing: str) -> None:
    (adapter / missing).unlink()
    assert refused().startswith(f"{adapter / missing} ")
    if missing.endswith("safetensors"):
        (adapter / "adapter_model.bin").write_bytes(b"")
        assert refused() == (
            f"{adapter} holds adapter_model.bin; save the adapter as adapter_model.safetensors"
        )


def test_work_with_another_adapter_is_not_used(
    tmp_path: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.quantize.test_resume import stop_after

    with monkeypatch.context() as patch:
        stop_after(15, patch, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            merge(BFLOAT16, adapter, tmp_path / "made", workers=1)
    change_weights(adapter, lambda w: w[Q_A].mul_(2))
    merge(BFLOAT16, adapter, tmp_path / "made")
    merge(BFLOAT16, adapter, tmp_path / "afresh")
    made, afresh = weights(tmp_path / "made"), weights(tmp_path / "afresh")
    assert all(
        torch.equal(made[name].view(torch.uint8), each.view(torch.uint8)) for name, each in afresh.items()
    )


def test_the_command_line_takes_a_folder_and_the_card_names_it(tmp_path: Path) -> None:
    case = ADAPTERS / "dora"
    arguments = [str(base_of("dora")), str(tmp_path / "made"), "--adapter", str(case), "--verify"]
    result = CliRunner().invoke(quantize_command, arguments)
    assert result.exit_code == 0, result.output
    card = (tmp_path / "made/README.md").read_text()
    assert "`source` with the adapter `dora` merged" in card
    assert "octet quantize source DST --adapter dora --weights e4m3" in card
