"""Octet's kernels inside vLLM's own processes: that they run there, and that they compute the same."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from octet import ops
from octet.engine.vllm.engine import VllmEngine
from tests.e2e.conftest import ENGINE_FLAGS

PROMPT = "<start_of_turn>user\nWhat is the weather in Oslo? Tell me about three red circles.<end_of_turn>\n"


@pytest.mark.asyncio(loop_scope="session")
async def test_the_loaded_model_runs_on_octets_kernels(engine: VllmEngine) -> None:
    name = f"octet/{ops.isa()}"
    (report,) = await engine.llm.collective_rpc("octet_active_kernels")
    assert set(report) == {f"fp8_linear={name}", f"per_token_quant_fp8={name}"}
    assert all(count > 0 for count in report.values())
    assert engine.model.active_kernels == tuple(f"{key} in {report[key]} layers" for key in sorted(report))


async def _prompt_logprobs(engine: VllmEngine) -> list[float]:
    from vllm.sampling_params import SamplingParams

    params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
    tokens = engine.llm.renderer.get_tokenizer().encode(PROMPT, add_special_tokens=True)
    prompt: Any = {"prompt_token_ids": tokens}
    async for output in engine.llm.generate(prompt, params, "logprobs"):
        last = output
    scored = zip(tokens[1:], last.prompt_logprobs[1:], strict=True)
    return [entries[token].logprob for token, entries in scored]


@pytest.mark.asyncio(loop_scope="session")
async def test_every_step_goes_through_them(engine: VllmEngine) -> None:
    """Counts what the worker's process executes, while a request runs."""
    (layers,) = {next(iter(r.values())) for r in await engine.llm.collective_rpc("octet_active_kernels")}
    await engine.llm.collective_rpc("octet_start_trace")
    await _prompt_logprobs(engine)
    (counts,) = await engine.llm.collective_rpc("octet_stop_trace")
    assert counts["octet::fp8_linear"] == counts["octet::per_token_quant_fp8"]
    assert counts["octet::fp8_linear"] >= layers
    assert counts["octet::fp8_linear"] % layers == 0
    assert "aten::_scaled_mm" not in counts


@contextmanager
def vllm_server(model: str, log: Path, **environment: str) -> Iterator[int]:
    """A plain vLLM server, started without a word about Octet; yields its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, *ENGINE_FLAGS]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=os.environ | environment, start_new_session=True
        )
    try:
        yield port
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(found: Any, log: Path, seconds: float = 280) -> Any:
    """Polls until `found()` is true; the log is the message when it never is."""
    deadline = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.1)
    return result


def test_a_plain_vllm_server_says_that_they_are_active(model_path: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with vllm_server(model_path, log):
        line = wait_for(
            lambda: next((x for x in log.read_text().splitlines() if "octet kernels" in x), None), log
        )
    name = f"octet/{ops.isa()}"
    assert f"octet kernels active: per_token_quant_fp8={name} fp8_linear={name}" in line
    assert "Worker" in line


@pytest.mark.asyncio(loop_scope="session")
async def test_log_probabilities_match_vllms_own_path(
    engine: VllmEngine, model_path: str, tmp_path: Path
) -> None:
    """The same prompt, scored by this engine and by vLLM with Octet switched off.

    vLLM multiplies by a reciprocal where Octet divides (0.03 % of the codes differ by one), and both sum in
    another order, so activations differ by a rounding of bf16 (2^-8) here and there; a wrong kernel is off by
    whole units.
    """
    ours = await _prompt_logprobs(engine)
    log = tmp_path / "log"
    with vllm_server(model_path, log, OCTET_KERNELS="off") as port:
        theirs = wait_for(lambda: _server_logprobs(port, model_path), log)
    assert "octet kernels off: OCTET_KERNELS=off" in log.read_text()
    assert "octet kernels active" not in log.read_text()
    difference = (torch.tensor(ours) - torch.tensor(theirs)).abs()
    assert len(ours) == len(theirs) > 10
    assert difference.mean() < 0.05, difference
    assert difference.max() < 0.3, difference


def _server_logprobs(port: int, model: str) -> list[float] | None:
    body = {"model": model, "prompt": PROMPT, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
    except (ConnectionError, urllib.error.URLError):
        return None
    entries = answer["choices"][0]["prompt_logprobs"][1:]
    return [next(iter(entry.values()))["logprob"] for entry in entries]
