"""An engine, or transformers, in a process of its own: what pictures cost, and whom they hold up.

    python -m bench.vision_run engine|bfloat16|float32 CHECKPOINT [--pictures 4]     # prints one JSON object

With OCTET_KERNELS=off the engine is vLLM as it comes.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before vLLM is imported: standard output is for the result, and functions are sent to the worker.
os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"

import numpy as np
import torch
from PIL import Image

from octet.engine.vllm.inside.vision.shape import TowerShape

_TURN = "<bos><start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n"
_TEXT = _TURN.format("Tell me something.")
_PEAK_SIDE = 3072


def pixels(checkpoint: Path, seed: int) -> torch.Tensor:
    """A picture as the tower takes it: [1, 3, side, side] in bf16, of values from -1 to 1."""
    side = json.loads((checkpoint / "config.json").read_text())["vision_config"]["image_size"]
    drawn = torch.rand((1, 3, side, side), generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return drawn.bfloat16()


def peak() -> float:
    """Operations a second of the best of several large products in f32, on the threads of this process."""
    a = torch.randn(_PEAK_SIDE, _PEAK_SIDE)
    best = min(_seconds(lambda: a @ a) for _ in range(5))
    return 2 * _PEAK_SIDE**3 / best


def _seconds(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _embeddings(worker: Any, checkpoint: str) -> tuple[float, list[list[float]]]:
    """In the worker: the seconds that the tower takes for a picture, and what it gives, [tokens, width]."""
    runner = worker.model_runner
    encoder = getattr(runner, "octet_encoder", None)
    values = pixels(Path(checkpoint), 0)
    with torch.inference_mode():
        start = time.perf_counter()
        if encoder is None:
            crops = {"pixel_values": values, "num_patches": torch.tensor([1])}
            embedded = runner.get_model().embed_multimodal(**crops)[0]
        else:
            embedded = encoder.tower.encode(values)[0]
        return time.perf_counter() - start, embedded.float().tolist()


def _peak(worker: Any) -> float:
    return peak()


class Engine:
    """vLLM's engine, stepped by hand."""

    def __init__(self, checkpoint: Path, pictures: int) -> None:
        from vllm import EngineArgs, LLMEngine

        self._engine = LLMEngine.from_engine_args(
            EngineArgs(
                model=str(checkpoint),
                enforce_eager=True,
                max_model_len=4096,
                max_num_seqs=8,
                max_num_batched_tokens=4096,
                limit_mm_per_prompt={"image": pictures},
            )
        )
        self._pictures = pictures
        self._drawn = 0

    def _add(self, name: str, prompt: Any, new_tokens: int) -> None:
        from vllm import SamplingParams

        parameters = SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True)
        self._engine.add_request(name, prompt, parameters)

    def _with_pictures(self, number: int) -> Any:
        drawn = []
        for _ in range(number):
            noise = np.random.default_rng(self._drawn).integers(0, 256, (448, 448, 3), dtype=np.uint8)
            drawn.append(Image.fromarray(noise))
            self._drawn += 1
        return {
            "prompt": _TURN.format("<start_of_image>" * number + "What is it?"),
            "multi_modal_data": {"image": drawn},
        }

    def _steps(self) -> Iterator[tuple[float, list[str]]]:
        """Steps until nothing is left to do: when each one ended, and who got a token."""
        while self._engine.has_unfinished_requests():
            outputs = self._engine.step()
            if outputs:
                yield time.perf_counter(), [output.request_id for output in outputs]

    def _first_token(self, name: str, prompt: Any) -> float:
        """Seconds to the one token of a request that is alone."""
        self._add(name, prompt, 1)
        start = time.perf_counter()
        return [at - start for at, _ in self._steps()][-1]

    def measure(self, checkpoint: Path) -> dict[str, Any]:
        """All figures; the text of the first requests warms the engine up."""
        for warm in range(3):
            self._first_token(f"warm-{warm}", {"prompt": _TEXT})
        ((tower, embedded),) = self._engine.collective_rpc(_embeddings, args=(str(checkpoint),))
        (reached,) = self._engine.collective_rpc(_peak)
        alone = self._first_token("picture", self._with_pictures(1))
        return {
            "tower_s": tower,
            "peak": reached,
            "first_token_s": alone,
            "embeddings": embedded,
        } | self._beside_a_stream()

    def _beside_a_stream(self) -> dict[str, Any]:
        """The gaps of a stream and the wait of a new text, while the pictures of one request are encoded."""
        self._add("stream", {"prompt": _TEXT}, 4000)
        steps = self._steps()
        before = [next(steps)[0] for _ in range(12)]
        self._add("pictures", self._with_pictures(self._pictures), 1)
        self._add("text", {"prompt": _TURN.format("And now?")}, 1)
        last = start = time.perf_counter()
        gaps, text_s, pictures_s = [], None, None
        for at, names in steps:
            if "stream" in names:
                gaps.append(at - last)
                last = at
            if "text" in names:
                text_s = at - start
            if "pictures" in names:
                pictures_s = at - start
            if pictures_s is not None and text_s is not None:
                break
        self._engine.abort_request(["stream"], internal=False)
        return {
            "gap_without_s": float(np.median(np.diff(before[2:]))),
            "largest_gap_s": max(gaps),
            "tokens_meanwhile": len(gaps),
            "text_s": text_s,
            "pictures_s": pictures_s,
        }


def with_transformers(checkpoint: Path, dtype: torch.dtype) -> dict[str, Any]:
    """The tower alone, as transformers computes it."""
    from transformers import Gemma3ForConditionalGeneration

    model = Gemma3ForConditionalGeneration.from_pretrained(checkpoint, dtype=dtype).eval()
    values = pixels(checkpoint, 0).to(dtype)
    with torch.inference_mode():
        start = time.perf_counter()
        embedded = model.model.get_image_features(values)
        seconds = time.perf_counter() - start
    # Newer versions give an output with fields.
    tensor = getattr(embedded, "pooler_output", embedded)[0]
    return {"tower_s": seconds, "peak": peak(), "embeddings": tensor.float().tolist()}


def operations(checkpoint: Path) -> int:
    """Floating-point operations of a picture in the tower's products."""
    from types import SimpleNamespace

    config = json.loads((checkpoint / "config.json").read_text())["vision_config"]
    return TowerShape.of(SimpleNamespace(**config)).picture_operations()


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(description="Measure pictures in one program.")
    parser.add_argument("program", choices=("engine", "bfloat16", "float32"))
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--pictures", type=int, default=4)
    arguments = parser.parse_args()
    if arguments.program == "engine":
        result = Engine(arguments.checkpoint, arguments.pictures).measure(arguments.checkpoint)
    else:
        result = with_transformers(arguments.checkpoint, getattr(torch, arguments.program))
    json.dump(result | {"operations": operations(arguments.checkpoint)}, sys.stdout)


if __name__ == "__main__":
    main()
