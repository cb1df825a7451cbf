"""Octet's kernels inside vLLM's own processes: that they run there, and that they compute the same."""

from typing import Any

import pytest
import torch

from octet import ops
from octet.engine.vllm import kernels
from octet.engine.vllm.launch.args import parse_engine_args
from octet.engine.vllm.serving.engine import VllmEngine, create_engine
from tests.e2e.conftest import ENGINE_FLAGS
from tests.e2e.openai_server import OpenAiServer

# What runs in Gemma 3; all but the first are how its linear layers' inputs come to be quantized.
OPERATORS = (
    "fp8_linear",
    "per_token_quant_fp8",
    "gemma_rms_norm_quant_fp8",
    "gemma_norm_add_norm_quant_fp8",
    "gelu_tanh_and_mul_quant_fp8",
)
QUESTION = "What is the capital of France?"


@pytest.mark.asyncio(loop_scope="session")
async def test_the_loaded_model_runs_on_octets_kernels(engine: VllmEngine) -> None:
    name = f"octet/{ops.isa()}"
    (report,) = await engine.llm.collective_rpc("octet_active_kernels")
    # The layer that makes logits, where bf16 is Octet's business; the pictures' layers multiply otherwise.
    assert report.pop(f"bf16_linear={name}", 0) == int(kernels.multiplies_bf16())
    assert set(report) == {f"{operator}={name}" for operator in OPERATORS}
    assert report.pop(f"fp8_linear={name}") == sum(report.values()), "each layer's input is quantized once"
    (report,) = await engine.llm.collective_rpc("octet_active_kernels")
    assert engine.model.active_kernels == tuple(f"{key} in {report[key]} layers" for key in sorted(report))


async def _generate(engine: VllmEngine, tokens: list[int], **sampling: Any) -> Any:
    from vllm.sampling_params import SamplingParams

    prompt: Any = {"prompt_token_ids": tokens}
    async for output in engine.llm.generate(prompt, SamplingParams(temperature=0.0, **sampling), "scored"):
        last = output
    return last


async def _conversation(engine: VllmEngine) -> tuple[list[int], int]:
    """The tokens of a question and the model's own answer to it, and how many of them the question has."""
    turn = f"<start_of_turn>user\n{QUESTION}<end_of_turn>\n<start_of_turn>model\n"
    question = engine.llm.renderer.get_tokenizer().encode(turn, add_special_tokens=True)
    output = await _generate(engine, question, max_tokens=24)
    return question + list(output.outputs[0].token_ids), len(question)


async def _logprobs(engine: VllmEngine, tokens: list[int]) -> list[float]:
    """The log probability of each token but the first, after those before it."""
    output = await _generate(engine, tokens, max_tokens=1, prompt_logprobs=0)
    scored = zip(tokens[1:], output.prompt_logprobs[1:], strict=True)
    return [entries[token].logprob for token, entries in scored]


@pytest.mark.asyncio(loop_scope="session")
async def test_every_step_goes_through_them(engine: VllmEngine) -> None:
    """Counts what the worker's process executes, while a request runs."""
    (report,) = await engine.llm.collective_rpc("octet_active_kernels")
    await engine.llm.collective_rpc("octet_start_trace")
    await _conversation(engine)
    (counts,) = await engine.llm.collective_rpc("octet_stop_trace")
    layers = {operator: report[f"{operator}=octet/{ops.isa()}"] for operator in OPERATORS}
    steps, rest = divmod(counts["octet::fp8_linear"], layers["fp8_linear"])
    assert steps > 1
    assert rest == 0
    for operator, count in layers.items():
        assert counts[f"octet::{operator}"] == steps * count
    # A layer has four products, and rotates once.
    assert 4 * counts["octet::qk_norm_rope"] == counts["octet::fp8_linear"]
    assert "aten::_scaled_mm" not in counts


@pytest.mark.asyncio(loop_scope="session")
async def test_fused_and_unfused_log_probabilities_match(engine: VllmEngine) -> None:
    """The same tokens, scored with the fused kernels and with vLLM's norm and activation before Octet's.

    Both round at the same points; one code in a thousand may differ, where the sums of a norm were added in
    another order (2^-24) and that tips a code (2^-4). The trace shows that they were two paths indeed.
    """
    tokens, question = await _conversation(engine)
    fused = torch.tensor(await _logprobs(engine, tokens))
    await engine.llm.collective_rpc("octet_use_fused", args=(False,))
    try:
        await engine.llm.collective_rpc("octet_start_trace")
        unfused = torch.tensor(await _logprobs(engine, tokens))
        (counts,) = await engine.llm.collective_rpc("octet_stop_trace")
    finally:
        await engine.llm.collective_rpc("octet_use_fused", args=(True,))
    assert not any("norm_quant" in name or "and_mul_quant" in name for name in counts)
    assert counts["octet::per_token_quant_fp8"] == counts["octet::fp8_linear"]
    _assert_close(fused, unfused, question)


def _assert_close(ours: torch.Tensor, theirs: torch.Tensor, question: int) -> None:
    difference = (ours - theirs).abs()
    assert difference[question - 1 :].max() < 0.02, difference
    assert difference.mean() < 0.1, difference
    assert difference.max() < 0.5, difference


def test_a_plain_vllm_server_says_that_they_are_active(openai: OpenAiServer) -> None:
    line = next(line for line in openai.log.read_text().splitlines() if "octet kernels" in line)
    name = f"octet/{ops.isa()}"
    assert "octet kernels active: " in line
    for operator in (*OPERATORS, "silu_and_mul_quant_fp8"):
        assert f" {operator}={name}" in line
    assert "Worker" in line


@pytest.mark.asyncio(loop_scope="session")
async def test_log_probabilities_match_vllms_own_path(
    engine: VllmEngine, model_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same tokens, scored by this engine and by vLLM with Octet switched off.

    vLLM multiplies by a reciprocal where Octet divides, and the two sum in another order. So an activation
    here and there is rounded to the next bf16 (2^-8), which can tip its FP8 code (2^-4), and later layers
    spread that. Where the model is sure, in its own answer, it hardly shows (1e-4 was measured); on the
    question's words, which nobody taught it to predict, two right ways differ by hundredths (at most 0.11).
    A wrong scale or a wrong code is off by whole units.
    """
    tokens, question = await _conversation(engine)
    ours = torch.tensor(await _logprobs(engine, tokens))
    monkeypatch.setenv(kernels.SWITCH, "off")
    stock = await create_engine(parse_engine_args([model_path, *ENGINE_FLAGS]))
    try:
        (report,) = await stock.llm.collective_rpc("octet_active_kernels")
        theirs = torch.tensor(await _logprobs(stock, tokens))
    finally:
        stock.close()
    assert report
    assert not any("octet" in implementation for implementation in report)
    assert ours.shape == theirs.shape == (len(tokens) - 1,)
    _assert_close(ours, theirs, question)
