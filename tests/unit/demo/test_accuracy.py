"""What the shipped FP8 files can do, through vLLM, on cases that are drawn here for the first time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.demo_checkpoint.export import ROOT

SEED = 20261123
# Shares of exactly right answers: what the model card reports, less two standard errors of this many cases.
FLOORS = {
    "caption": 0.75,
    "question about a picture": 0.65,
    "call": 0.64,
    "answer from results": 0.68,
    "chat": 0.80,
}


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """The share of right answers per kind; the three kinds of calls are taken together."""
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
    right: dict[str, int] = {}
    total: dict[str, int] = {}
    for kind, (good, judged) in json.loads(Path(report).read_text()).items():
        name = "call" if "call" in kind else kind
        right[name] = right.get(name, 0) + good
        total[name] = total.get(name, 0) + judged
    return {kind: right[kind] / total[kind] for kind in total}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", FLOORS)
def test_new_cases_are_answered_as_the_model_card_says(kind: str, shares: dict[str, float]) -> None:
    assert shares[kind] >= FLOORS[kind], shares
