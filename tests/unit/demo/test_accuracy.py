"""What the shipped FP8 files can do, through vLLM, on cases that are drawn here for the first time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.demo_checkpoint.export import ROOT

SEED = 20261123
# Shares of exactly right answers. What the checkpoint is for: 95 % of held-out pictures described, 90 % of
# held-out arguments. What it does besides is held to what the model card reports, less two standard errors.
FLOORS = {
    "caption": 0.95,
    "call, known tool": 0.90,
    "answer from results": 0.90,
    "chat": 0.95,
    "question about a picture": 0.82,
    "call, made-up tool": 0.68,
    "no tool fits": 0.84,
    "two pictures": 0.70,
}


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """The share of right answers per kind."""
    report = tmp_path_factory.mktemp("accuracy") / "report.json"
    command = [
        "-m",
        "tools.demo_checkpoint.evaluate",
        "--seed",
        str(SEED),
        "--cases",
        "100",
        "--json",
        str(report),
    ]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    table = json.loads(Path(report).read_text())
    return {kind: right / judged for kind, (right, judged) in table.items()}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", FLOORS)
def test_new_cases_are_answered_as_the_model_card_says(kind: str, shares: dict[str, float]) -> None:
    assert shares[kind] >= FLOORS[kind], shares
