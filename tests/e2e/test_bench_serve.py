"""`octet bench serve` against the real servers: what it asks is taken, and what comes is counted right."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.e2e.openai_server import OpenAiServer

SMALL = ("--streams", "1,4", "--requests", "8", "--prompt-tokens", "uniform:24,64", "--answer-tokens", "12")


def bench(tmp_path: Path, *arguments: str) -> list[dict[str, Any]]:
    """The figures of each level."""
    written = tmp_path / "out.json"
    command = [sys.executable, "-m", "octet", "bench", "serve", *SMALL, *arguments, "--json", str(written)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout + result.stderr
    return [turn for level in json.loads(written.read_text())["levels"] for turn in level["turns"]]


def check(turns: list[dict[str, Any]], tokens: int) -> None:
    """All was answered, by answers of the length that was asked for; prompts have theirs, more or less."""
    for turn in turns:
        assert turn["statuses"] == {"OK": 8}
        assert turn["answer_tokens"] == 8 * tokens
        assert turn["first_token_s"]["count"] == 8
        assert 8 * 20 <= turn["prompt_tokens"] <= 8 * 70
        assert 0 < turn["first_token_s"]["p50"] <= turn["total_s"]["p50"]


def test_octet(target: str, tmp_path: Path) -> None:
    turns = bench(tmp_path, "--target", target, "--goodput", "total=600s")
    check(turns, 12)
    assert all(turn["goodput_share"] == 1 for turn in turns)


def test_pictures_and_tools(target: str, tmp_path: Path) -> None:
    mix = ("--mix", "text=1,picture=1,tools=1", "--pictures", "2", "--picture-side", "128")
    for turn in bench(tmp_path, "--target", target, *mix):
        assert turn["statuses"] == {"OK": 8}
        assert turn["first_text_s"]["count"] == 8


def test_vllm_engine(target: str, tmp_path: Path) -> None:
    check(bench(tmp_path, "--vllm-grpc", target), 12)


def test_vllms_openai_server(openai: OpenAiServer, tmp_path: Path) -> None:
    check(bench(tmp_path, "--openai", openai.chat.removesuffix("/chat/completions")), 12)
