"""Each family's checkpoint, quantized, in vLLM on a CPU: it loads, and says what its source says.

`make check-families`: a quarter of an hour. All models run in this process, one after the other.
"""

import gc
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from octet.engine.vllm.checkpoint import content_obstacles, contents_of, read_checkpoint, read_tensors
from tests.quantize.conftest import Quantize
from tests.quantize.families import FAMILIES, NO_EXPERTS, Family
from tests.quantize.tiny import write

pytestmark = [
    pytest.mark.skipif("OCTET_LONG_TESTS" not in os.environ, reason="takes long: make check-families"),
    # Of Llama 4's rotary embedding, when the model is made bf16 to be written.
    pytest.mark.filterwarnings("ignore:Casting complex values"),
    # vLLM looks at every attribute of every module that was imported, deprecated ones among them.
    pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning"),
]

PROMPT = [3, 17, 99, 250, 4, 8, 120, 63, 31, 77, 12, 201]
TOLERANCE = 0.5
"""Nats by which log probabilities may differ in the mean: most do by 0.1, and squares make it 0.3."""


@pytest.fixture(scope="module", autouse=True)
def settings() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        # What vLLM asks of a model's class, it asks in a new process for each: half a minute of imports.
        patch.setattr("vllm.model_executor.models.registry._run_in_subprocess", lambda asks: asks())
        patch.setattr(
            "vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors_moe."
            "compressed_tensors_moe_w8a8_fp8.CompressedTensorsW8A8Fp8MoEMethod.process_weights_after_loading",
            decode_experts,
        )
        yield


def decode_experts(method: Any, layer: Any) -> None:
    """vLLM has no kernel for such experts on CPUs: what it has loaded is decoded, and computed in bf16."""
    from vllm.model_executor.layers.fused_moe import UnquantizedFusedMoEMethod
    from vllm.model_executor.utils import replace_parameter

    for name in ("w13", "w2"):
        codes, scale = getattr(layer, f"{name}_weight"), getattr(layer, f"{name}_weight_scale")
        assert codes.dtype is torch.float8_e4m3fn
        decoded = (codes.to(torch.float32) * scale).to(layer.orig_dtype)
        replace_parameter(layer, f"{name}_weight", torch.nn.Parameter(decoded, requires_grad=False))
    plain = UnquantizedFusedMoEMethod(layer.moe_config)
    layer._replace_quant_method(plain)
    plain.process_weights_after_loading(layer)


SETTINGS: dict[str, Any] = {
    "enforce_eager": True,
    "max_model_len": 64,
    "max_num_seqs": 2,
    "max_num_batched_tokens": 128,
    "enable_prefix_caching": False,
    "dtype": "bfloat16",
}


def run(directory: Path, work: Callable[[Any], Any], **settings: Any) -> Any:
    """What `work` finds out from the running model."""
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    llm = LLM(str(directory), **SETTINGS, **settings)
    try:
        return work(llm)
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        cleanup_dist_env_and_memory()
        gc.collect()


def parameters(directory: Path) -> dict[str, torch.Tensor]:
    """What vLLM has loaded of the whole model, towers included, made ready to compute with."""
    from vllm.config import set_current_vllm_config
    from vllm.distributed import (
        cleanup_dist_env_and_memory,
        init_distributed_environment,
        initialize_model_parallel,
    )
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader import get_model

    config = EngineArgs(model=str(directory), **SETTINGS).create_engine_config()
    with set_current_vllm_config(config), tempfile.TemporaryDirectory() as meeting:
        init_distributed_environment(1, 0, f"file://{meeting}/store", 0, "gloo")
        initialize_model_parallel()
        try:
            return dict(get_model(vllm_config=config).named_parameters())
        finally:
            cleanup_dist_env_and_memory()


def log_probabilities(llm: Any) -> torch.Tensor:
    """Those of all tokens after each of the prompt's, [T, V], and of the first that is generated."""
    from vllm import SamplingParams

    parameters = SamplingParams(
        temperature=0.0, max_tokens=1, prompt_logprobs=0, logprobs=0, detokenize=False
    )
    [output] = llm.generate({"prompt_token_ids": PROMPT}, parameters, use_tqdm=False)
    places = [*output.prompt_logprobs[1:], *output.outputs[0].logprobs]
    return torch.tensor([next(iter(place.values())).logprob for place in places[:-1]])


def pooled(llm: Any) -> torch.Tensor:
    """The model's vector for the prompt, or its classes'."""
    task = "classify" if "classify" in llm.supported_tasks else "embed"
    [output] = llm.encode({"prompt_token_ids": PROMPT}, pooling_task=task, use_tqdm=False)
    found: torch.Tensor = output.outputs.data
    return found.flatten().float()


def compare(family: Family, source: Path, made: Path) -> tuple[float, str]:
    """How far what the model says is from what its source says, and in which unit.

    Raises:
        AssertionError: something that was not quantized is not what it was.
    """
    seeing = [name for name in ("vision_config", "audio_config") if name in family.config]
    if seeing:
        before, after = parameters(source), parameters(made)
        kept = {name for name in before.keys() & after if before[name].dtype is after[name].dtype}
        kept = {name for name in kept if "experts." not in name}  # See `decode_experts`.
        assert len(kept) > 10
        assert [name for name in kept if not torch.equal(before[name], after[name])] == []
    settings = {"language_model_only": True} if seeing else {}
    if family.architecture.endswith(("ForCausalLM", "ForConditionalGeneration")):
        expected, found = (run(path, log_probabilities, **settings) for path in (source, made))
        assert expected.isfinite().all()
        return float((expected - found).abs().mean()), "nats"
    expected, found = (run(path, pooled) for path in (source, made))
    return float((expected - found).norm() / expected.norm()), "of the vector's length"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.architecture)
def test_octet_serve_would_not_refuse_it(family: Family, tmp_path: Path, quantize: Quantize) -> None:
    """Neither the source nor what is made of it, but for experts on a CPU."""
    if "library" in family.hindrance:
        pytest.skip(family.hindrance)
    write(family, tmp_path / "source")
    quantize(tmp_path / "source", tmp_path / "made")
    for name in ("source", "made"):
        checkpoint = read_checkpoint(str(tmp_path / name))
        contents = contents_of(checkpoint, read_tensors(checkpoint))
        assert content_obstacles(contents, "cuda", guess=False) == []
        on_cpu = content_obstacles(contents, "cpu", guess=False)
        expected = name == "made" and family.hindrance.startswith(NO_EXPERTS)
        assert ["experts" in obstacle for obstacle in on_cpu] == [True] * expected


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.architecture)
def test_says_what_its_source_says(family: Family, tmp_path: Path, quantize: Quantize) -> None:
    if family.hindrance not in ("", NO_EXPERTS):
        pytest.skip(family.hindrance)
    write(family, tmp_path / "source")
    quantize(tmp_path / "source", tmp_path / "made")
    assert "quantization_config" in json.loads((tmp_path / "made/config.json").read_text())
    difference, unit = compare(family, tmp_path / "source", tmp_path / "made")
    print(f"\n{family.architecture}: {difference:.3f} {unit}")
    assert difference < TOLERANCE
