"""Pictures are read as transformers reads them, in whatever pieces a prompt is computed."""

from pathlib import Path
from typing import Any

import pytest

from octet.engine.vllm.serving.engine import VllmEngine
from tests.e2e.test_octet_fp8 import picture
from tools.real_geometry import compare
from tools.real_geometry.write import write

# f32 on both sides: what is left is the order of sums, 4e-6. A causal picture is 0.1 and more apart.
TOLERANCE = 1e-3
TEXT_LAYERS = ["sliding_attention", "full_attention"]
NARROW_TEXT = {"hidden_size": 512, "intermediate_size": 1024}
NARROW_VISION = {"hidden_size": 144, "intermediate_size": 288, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def real_geometry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gemma 3 4B's pictures, heads, windows and positions, a layer of each kind.

    Width and vocabulary, which know nothing of masks, would take most of the time: the whole is compared by
    `python -m tools.real_geometry.compare`.
    """
    folder = tmp_path_factory.mktemp("real-geometry")
    write(
        folder,
        len(TEXT_LAYERS),
        vision_layers=1,
        forms=("bf16",),
        vocabulary=8192,
        vision=NARROW_VISION,
        layer_types=TEXT_LAYERS,
        **NARROW_TEXT,
    )
    return folder / "bf16"


@pytest.mark.timeout(600)
def test_log_probabilities_at_real_geometry_are_those_of_transformers(real_geometry: Path) -> None:
    asked = [case for case in compare.cases() if case.name in ("two pictures", "pan and scan")]
    theirs = compare.by_transformers(real_geometry, asked)
    # Steps of 1100 tokens: the prompt with crops is computed in two.
    ours = compare.by_octet(real_geometry, asked, ["--enforce-eager", "--dtype", "float32"])
    for found in compare.differences(asked, ours, theirs, compare.image_token(real_geometry)):
        assert found.text_mean < TOLERANCE, found
        assert found.picture_mean < TOLERANCE, found


@pytest.mark.asyncio(loop_scope="session")
async def test_a_picture_that_the_prefix_cache_cuts_is_read_whole(engine: VllmEngine) -> None:
    first = await answer(engine, "cut-1")
    block = engine.llm.vllm_config.cache_config.block_size
    assert first.num_cached_tokens < block
    begin = first.prompt_token_ids.index(engine.llm.model_config.hf_config.image_token_index)
    assert begin < block < begin + engine.llm.model_config.hf_config.mm_tokens_per_image - 1
    again = await answer(engine, "cut-2")
    assert again.num_cached_tokens == block
    assert again.outputs[0].token_ids == first.outputs[0].token_ids
    for ours, theirs in zip(logprobs(again), logprobs(first), strict=True):
        assert ours == pytest.approx(theirs, abs=0.02)


async def answer(engine: VllmEngine, request_id: str) -> Any:
    """What the model says about a picture that lies across the end of the cache's first block."""
    from vllm.sampling_params import SamplingParams

    block = engine.llm.vllm_config.cache_config.block_size
    opening, question = "<bos><start_of_turn>user\n", "<start_of_image>What is in this picture?"
    tokenizer = engine.llm.renderer.get_tokenizer()
    words = "red "
    while len(tokenizer.encode(opening + words, add_special_tokens=False)) < block - 10:
        words += "red "
    prompt: Any = {
        "prompt": f"{opening}{words}{question}<end_of_turn>\n<start_of_turn>model\n",
        "multi_modal_data": {"image": picture()},
    }
    params = SamplingParams(temperature=0.0, max_tokens=8, logprobs=1)
    async for output in engine.llm.generate(prompt, params, request_id):
        last = output
    return last


def logprobs(output: Any) -> list[float]:
    """Of the answer's tokens."""
    generated = output.outputs[0]
    return [
        found[token].logprob for token, found in zip(generated.token_ids, generated.logprobs, strict=True)
    ]
