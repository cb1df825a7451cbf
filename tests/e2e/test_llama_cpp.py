"""llama.cpp as an engine of the end-to-end benchmark, where it has been built."""

import os
from pathlib import Path

import pytest

from bench import random_checkpoint
from bench.llama_cpp import engine, environment
from tests.e2e.test_end_to_end import SMALL

built = pytest.mark.skipif(
    not (environment.FOLDER / "requirements.txt").is_file(),
    reason="`python -m bench.llama_cpp.environment` builds it",
)


@built
def test_it_is_measured_as_the_others_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_checkpoint, "CONFIG", random_checkpoint.CONFIG | SMALL)
    random_checkpoint.write(tmp_path, layers=2)
    cores = sorted(os.sched_getaffinity(0))[:1]
    run = engine.measure(tmp_path, cores, new_tokens=4, repetitions=2)
    assert (tmp_path / "q8_0.gguf").is_file()
    assert run["first_token"]["prompt_tokens"] == 512
    assert run["first_token"]["samples"] == 2
    assert [decode["batch"] for decode in run["decode"]] == [1, 8]
    assert all(decode["tokens_per_s"] > 0 and decode["step"]["samples"] == 4 for decode in run["decode"])


def test_an_environment_of_these_requirements_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it holds; any other is built anew."""
    monkeypatch.setattr(environment, "FOLDER", tmp_path)
    calls: list[list[str]] = []
    monkeypatch.setattr(environment.subprocess, "run", lambda command, **how: calls.append(command))
    (tmp_path / "requirements.txt").write_text("other")
    (tmp_path / "left").write_text("")
    with pytest.raises(FileNotFoundError):
        # Nothing has made the folder, whose command was caught.
        environment.python()
    assert [command[1:3] for command in calls] == [["-m", "venv"], ["-m", "pip"]]
    assert not (tmp_path / "left").exists()
    tmp_path.mkdir()
    (tmp_path / "requirements.txt").write_bytes(environment.REQUIREMENTS.read_bytes())
    calls.clear()
    assert environment.python() == tmp_path / "bin" / "python"
    assert calls == []
