"""One model over two ranks: Octet's kernels run in both, and the answers are those of one rank."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
import pytest_asyncio

from octet import ops
from octet.engine.vllm import compat
from octet.engine.vllm.formats import FormatPair
from octet.engine.vllm.launch.args import parse_engine_args
from octet.engine.vllm.launch.threads import BINDING
from octet.engine.vllm.serving.engine import VllmEngine, create_engine
from octet.errors import StartupError
from tests.e2e.conftest import ENGINE_FLAGS, MODEL
from tests.e2e.test_octet_fp8 import octet_fp8, picture, quantize_master, write

TWO_RANKS = (*ENGINE_FLAGS, "--tensor-parallel-size", "2")
OPERATORS = (
    "fp8_linear",
    "per_token_quant_fp8",
    "gemma_rms_norm_quant_fp8",
    "gelu_tanh_and_mul_quant_fp8",
)
TURN = "<bos><start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n"
PROMPTS: list[Any] = [
    {"prompt": TURN.format("What is the capital of France?")},
    {
        "prompt": TURN.format("<start_of_image>What is in this picture?"),
        "multi_modal_data": {"image": picture()},
    },
]

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def start_two_ranks(model: str) -> VllmEngine:
    return await create_engine(parse_engine_args([model, *TWO_RANKS]))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def two_ranks() -> AsyncIterator[VllmEngine]:
    engine = await start_two_ranks(MODEL)
    yield engine
    engine.close()


async def answers(engine: VllmEngine) -> list[list[int]]:
    """What the engine says, greedily, to each of the prompts."""
    from vllm.sampling_params import SamplingParams

    said = []
    for number, prompt in enumerate(PROMPTS):
        params = SamplingParams(temperature=0.0, max_tokens=12)
        async for output in engine.llm.generate(prompt, params, f"parallel-{number}"):
            last = output
        said.append(list(last.outputs[0].token_ids))
    return said


async def test_every_rank_reports_its_kernels(engine: VllmEngine, two_ranks: VllmEngine) -> None:
    (alone,) = await compat.ask_workers(engine.llm, "octet_active_kernels")
    reports = await compat.ask_workers(two_ranks.llm, "octet_active_kernels")
    assert reports == [alone, alone]
    assert two_ranks.model.active_kernels == tuple(
        f"{name} in {count} layers of each of 2 ranks" for name, count in sorted(alone.items())
    )


@pytest.mark.skipif(BINDING in os.environ, reason=f"{BINDING} chooses the cores")
async def test_every_rank_computes_on_cores_of_its_own(two_ranks: VllmEngine) -> None:
    assert await two_ranks.num_unfinished() == 0
    workers = [
        process
        for process in psutil.Process().children(recursive=True)
        if "VLLM::Worker_TP" in " ".join(process.cmdline())
    ]
    all_cores = os.sched_getaffinity(0)
    bound = []
    for worker in workers:
        affinities = [os.sched_getaffinity(thread.id) for thread in worker.threads()]
        bound.append(set().union(*(cores for cores in affinities if cores < all_cores)))
    assert [len(cores) for cores in bound] == [len(all_cores) // 2] * 2
    assert bound[0].isdisjoint(bound[1])


async def test_both_ranks_compute_with_them_what_one_does(engine: VllmEngine, two_ranks: VllmEngine) -> None:
    (report,) = await compat.ask_workers(engine.llm, "octet_active_kernels")
    layers = {operator: report[f"{operator}=octet/{ops.isa()}"] for operator in OPERATORS}
    await compat.ask_workers(two_ranks.llm, "octet_start_trace")
    said = await answers(two_ranks)
    traces = await compat.ask_workers(two_ranks.llm, "octet_stop_trace")
    assert len(traces) == 2
    for counts in traces:
        steps, rest = divmod(counts["octet::fp8_linear"], layers["fp8_linear"])
        assert steps > 1
        assert rest == 0
        for operator, count in layers.items():
            assert counts[f"octet::{operator}"] == steps * count
    assert said == await answers(engine)


async def test_octets_own_format_is_split_over_ranks(engine: VllmEngine, tmp_path: Path) -> None:
    """E5M2 in both places: its weights and scales are split by Octet's own quantization method."""
    codes, _ = quantize_master("e5m2")
    model = write(tmp_path / "e5m2", codes, octet_fp8(FormatPair("e5m2", "e5m2")))
    split = await start_two_ranks(str(model))
    try:
        reports = await compat.ask_workers(split.llm, "octet_active_kernels")
        said = await answers(split)
    finally:
        split.close()
    assert len(reports) == 2
    assert all(f"fp8_linear=octet/{ops.isa()}" in report for report in reports)
    assert said == await answers(engine), "what the demo checkpoint says does not depend on the format"


async def test_a_second_machine_computes(
    engine: VllmEngine, unused_tcp_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes that share nothing but an address: one serves, one computes and ends with the other."""
    cores = sorted(os.sched_getaffinity(0))
    flags = [MODEL, *TWO_RANKS, "--nnodes", "2", "--master-addr", "127.0.0.1"]
    flags += ["--master-port", str(unused_tcp_port)]
    with (tmp_path / "log").open("wb") as log:
        second = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "octet", "serve", *flags, "--node-rank", "1", "--headless"),
            stdout=log,
            stderr=log,
            env=os.environ | {BINDING: str(cores[-1])},
        )
    try:
        with monkeypatch.context() as patch:
            patch.setenv(BINDING, str(cores[0]))
            served = await create_engine(parse_engine_args([*flags, "--node-rank", "0"]))
        try:
            reports = await compat.ask_workers(served.llm, "octet_active_kernels")
            said = await answers(served)
        finally:
            served.close()
        assert await asyncio.wait_for(second.wait(), 60) == 1
    finally:
        if second.returncode is None:
            second.kill()
            await second.wait()
    assert len(reports) == 2
    assert all(f"fp8_linear=octet/{ops.isa()}" in report for report in reports)
    assert said == await answers(engine)
    said_last = (tmp_path / "log").read_text().splitlines()[-1]
    assert said_last == "octet: error: the machine that serves, 127.0.0.1, is gone"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tensor-parallel-size", "3"], "heads .* must be divisible by tensor parallel size"),
        (
            ["--tensor-parallel-size", "2", "--distributed-executor-backend", "ray"],
            "--distributed-executor-backend: on CPUs vLLM does not run over ray",
        ),
        (["--nnodes", "2", "--node-rank", "1", "--tensor-parallel-size", "2"], "--node-rank: only the first"),
        (["--nnodes", "2", "--hosts-timeout", "0"], "--hosts-timeout: 0 is not between 1 and 86400 seconds"),
        (
            ["--nnodes", "2", "--tensor-parallel-size", "2", "--master-addr", "192.0.2.1"],
            "--master-addr: no interface of this machine holds 192.0.2.1",
        ),
        (["--data-parallel-size", "4096"], "4096 ranks need a core each"),
        (
            ["--pipeline-parallel-size", "2"],
            "--pipeline-parallel-size: vLLM on CPUs cannot run pipeline stages",
        ),
    ],
)
async def test_what_cannot_be_spread_is_one_line(flags: list[str], message: str) -> None:
    with pytest.raises(StartupError, match=message) as raised:
        await create_engine(parse_engine_args([MODEL, *ENGINE_FLAGS, *flags]))
    assert "\n" not in str(raised.value)
