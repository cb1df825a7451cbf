"""The corpus of fuzzing, asked of the real engine."""

import asyncio
import logging
from pathlib import Path

import grpc
import pytest

from octet.engine.vllm.serving.engine import VllmEngine
from tests.fuzz.cases import load
from tests.fuzz.judge import judge
from tests.fuzz.play import Player

pytestmark = pytest.mark.asyncio(loop_scope="session")

CORPUS = sorted((Path(__file__).parents[1] / "fuzz" / "corpus").glob("*.json"))


@pytest.mark.parametrize("path", [path for path in CORPUS if path.stem.startswith("gateway")])
async def test_what_gateways_ask(target: str, path: Path) -> None:
    player = Player(target, keys=False, patience=120)
    outcomes = await player.play(load(path))
    await player.close()
    assert all(outcome.code == grpc.StatusCode.INVALID_ARGUMENT for outcome in outcomes), outcomes


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
async def test_the_corpus(
    engine: VllmEngine, in_process: str, caplog: pytest.LogCaptureFixture, path: Path
) -> None:
    player = Player(in_process, keys=False, patience=120)
    outcomes = await player.play(load(path))
    await player.close()
    problems = [problem for outcome in outcomes for problem in judge(outcome, constrains=True, keys=False)]
    assert problems == []
    async with asyncio.timeout(10):
        while await engine.num_unfinished():
            continue
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
