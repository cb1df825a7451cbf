"""llama.cpp as one more engine of `bench.end_to_end`."""

import json
import subprocess
from pathlib import Path
from typing import Any

from bench.llama_cpp import environment
from octet.bench.timing import Timing

_HERE = Path(__file__).parent
_PROMPT_TOKENS = 512


def prepare(checkpoint: Path) -> Path:
    """The GGUF file of a checkpoint's bf16 folder, which is written first where it is missing.

    Raises:
        subprocess.CalledProcessError: llama.cpp cannot be built, or the file not be written.
    """
    target = checkpoint / "q8_0.gguf"
    if not target.is_file():
        unfinished = target.with_suffix(".part")
        program = [environment.python(), _HERE / "write_gguf.py", checkpoint / "bf16", unfinished]
        subprocess.run(program, check=True)
        unfinished.rename(target)
    return target


def measure(checkpoint: Path, cores: list[int], new_tokens: int, repetitions: int) -> dict[str, Any]:
    """Runs it in a process of its own, bound to `cores`; its log goes to standard error.

    Returns:
        What `bench.engine_run` prints of an engine.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    program = [environment.python(), _HERE / "run.py", prepare(checkpoint)]
    options = {
        "--cores": ",".join(map(str, cores)),
        "--new-tokens": new_tokens,
        "--prompt-tokens": _PROMPT_TOKENS,
        "--repetitions": repetitions,
    }
    command = [*map(str, program), *(str(part) for option in options.items() for part in option)]
    measured = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    decode = []
    for batch, seconds in measured["decode_s"].items():
        step = Timing.of(seconds)
        decode.append({"batch": int(batch), "tokens_per_s": int(batch) / step.median, "step": step.as_json()})
    first = Timing.of(measured["first_token_s"])
    return {
        "kernels": {measured["system"]: 1},
        "first_token": {"prompt_tokens": _PROMPT_TOKENS} | first.as_json(),
        "decode": decode,
    }
