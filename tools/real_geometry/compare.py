"""Compares what vLLM, with Octet in it, makes of a checkpoint with what transformers makes of it.

    python -m tools.real_geometry.compare FOLDER [--form bf16|fp8] [--dtype bfloat16] [--compiled]

FOLDER is what `tools.real_geometry.write` wrote. For text alone, one and two pictures, and pan and scan, the
log probability of every token of the prompt is taken from both, and the mean and largest differences are
printed apart for the positions of text and of pictures. transformers computes in f32 with the bf16 weights,
which are the decoded FP8 ones; vLLM too, unless --dtype says otherwise: on CPUs without bf16 instructions
bf16 takes many times as long.
"""

import argparse
import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from octet.engine.vllm.serving.scoring import scorer

# The ids of a prompt's tokens from the second on, and their log probabilities.
Scores = tuple[list[int], torch.Tensor]

# Steps hold a picture in crops, and log probabilities take a row of the vocabulary for each of their tokens.
ENGINE_FLAGS = (
    *("--kv-cache-memory-bytes", "512M", "--max-model-len", "8192"),
    *("--max-num-seqs", "4", "--max-num-batched-tokens", "1100"),
)

TURN = "<bos><start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n"
STORY = "The boat left the harbour before the sun came up, and nobody on the pier could say where it went. "


@dataclass(frozen=True, slots=True)
class Case:
    """A prompt: its text, with <start_of_image> where a picture goes."""

    name: str
    text: str
    pictures: tuple[Image.Image, ...] = ()
    pan_and_scan: bool = False


@dataclass(frozen=True, slots=True)
class Difference:
    """How far two models' log probabilities of a prompt's tokens are apart, in nats.

    Attributes:
        name: of the case.
        tokens: that were compared.
        text_mean, text_max: over the positions of text; 0 where there are none.
        picture_mean, picture_max: over the positions of pictures, likewise.
    """

    name: str
    tokens: int
    text_mean: float
    text_max: float
    picture_mean: float
    picture_max: float


def picture(width: int, height: int, seed: int) -> Image.Image:
    """A picture in which every part looks different: smooth colours with noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 7, 7, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0]
    noisy = smooth + 0.1 * torch.randn(3, height, width, generator=generator)
    pixels = noisy.clamp(0, 1).mul(255).to(torch.uint8).permute(1, 2, 0).contiguous()
    return Image.fromarray(pixels.numpy())


def cases() -> list[Case]:
    """What is compared."""
    wide, square = picture(1800, 700, seed=1), picture(640, 640, seed=2)
    return [
        Case("text", TURN.format(STORY * 3)),
        Case("picture", TURN.format(f"{STORY}<start_of_image>What is in it? {STORY}"), (square,)),
        Case(
            "two pictures",
            TURN.format(f"<start_of_image>{STORY}<start_of_image>{STORY * 2}"),
            (square, wide),
        ),
        Case("pan and scan", TURN.format(f"{STORY}<start_of_image>{STORY}"), (wide,), pan_and_scan=True),
    ]


def by_octet(model: Path, asked: Sequence[Case], flags: Sequence[str] = ()) -> list[Scores]:
    """What the model says in vLLM, started as Octet starts it, with further flags of vLLM's."""

    async def score() -> list[Scores]:
        async with scorer(str(model), [*ENGINE_FLAGS, *flags]) as model_scorer:
            results = []
            for case in asked:
                prompt: dict[str, Any] = {"prompt_token_ids": model_scorer.texts.tokenize(case.text)}
                if case.pictures:
                    prompt["multi_modal_data"] = {"image": list(case.pictures)}
                    prompt["mm_processor_kwargs"] = {"do_pan_and_scan": case.pan_and_scan}
                scores = await model_scorer.score(prompt, top=0)
                results.append((scores.ids.tolist(), torch.from_numpy(scores.logprobs)))
            return results

    return asyncio.run(score())


def by_transformers(model: Path, asked: Sequence[Case]) -> list[Scores]:
    """What it says in transformers, in f32."""
    from transformers import Gemma3ForConditionalGeneration, Gemma3Processor

    processor = Gemma3Processor.from_pretrained(model)
    net = Gemma3ForConditionalGeneration.from_pretrained(model, dtype=torch.float32)
    results = []
    for case in asked:
        pictures = (
            {
                "images": [list(case.pictures)],
                "do_pan_and_scan": case.pan_and_scan,
            }
            if case.pictures
            else {}
        )
        inputs = processor(text=[case.text], add_special_tokens=False, return_tensors="pt", **pictures)
        with torch.inference_mode():
            logits = net(**inputs).logits[0, :-1]
            ids = inputs["input_ids"][0, 1:]
            scored = torch.log_softmax(logits, -1).gather(1, ids[:, None])[:, 0]
        results.append((ids.tolist(), scored))
    return results


def differences(
    asked: Sequence[Case],
    ours: Sequence[Scores],
    theirs: Sequence[Scores],
    image_token: int,
) -> list[Difference]:
    """How far the two are apart, case by case.

    Args:
        asked: the prompts.
        ours: what one says of them.
        theirs: what the other says.
        image_token: the token that a picture is made of.

    Raises:
        ValueError: where they do not even have the same tokens.
    """
    found = []
    for case, (our_ids, our_scores), (their_ids, their_scores) in zip(asked, ours, theirs, strict=True):
        if our_ids != their_ids:
            raise ValueError(f"{case.name}: the prompts have different tokens")
        apart = (our_scores - their_scores).abs()
        # A token is foretold at the position before it.
        in_picture = torch.tensor([-1, *our_ids[:-1]]) == image_token
        figures = [
            figure
            for part in (apart[~in_picture], apart[in_picture])
            for figure in ((part.mean().item(), part.max().item()) if len(part) else (0.0, 0.0))
        ]
        found.append(Difference(case.name, len(our_ids), *figures))
    return found


def image_token(model: Path) -> int:
    """The token that pictures are made of."""
    token: int = json.loads((model / "config.json").read_text())["image_token_index"]
    return token


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="what tools.real_geometry.write wrote")
    parser.add_argument(
        "--form", choices=("bf16", "fp8"), default="bf16", help="what vLLM gets (default: %(default)s)"
    )
    parser.add_argument("--dtype", default="float32", help="what vLLM computes in (default: %(default)s)")
    parser.add_argument("--compiled", action="store_true", help="compile the model in vLLM")
    parser.add_argument("--tensor-parallel", type=int, default=1, metavar="N", help="ranks in vLLM")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    arguments = parser.parse_args()
    asked = cases()
    flags = [] if arguments.compiled else ["--enforce-eager"]
    flags += ["--dtype", arguments.dtype, "--tensor-parallel-size", str(arguments.tensor_parallel)]
    ours = by_octet(arguments.folder / arguments.form, asked, flags)
    theirs = by_transformers(arguments.folder / "bf16", asked)
    found = differences(asked, ours, theirs, image_token(arguments.folder / "bf16"))
    print(f"{'prompt':14}{'tokens':>8}{'text mean':>12}{'max':>10}{'picture mean':>14}{'max':>10}")
    for each in found:
        print(
            f"{each.name:14}{each.tokens:8}{each.text_mean:12.1e}{each.text_max:10.1e}"
            f"{each.picture_mean:14.1e}{each.picture_max:10.1e}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(each) for each in found], indent=2) + "\n")


if __name__ == "__main__":
    main()
