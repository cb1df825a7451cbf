"""Judges a checkpoint on held-out cases and prints the share of exactly right answers per kind.

python -m tools.demo_checkpoint.evaluate [--seed N] [--cases N]
    judges the shipped FP8 files through vLLM;
python -m tools.demo_checkpoint.evaluate --run DIR [--name latest]
    a training's f32 weights through transformers.
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import Gemma3ForConditionalGeneration, PreTrainedTokenizerFast

from tools.demo_checkpoint import held_out
from tools.demo_checkpoint.export import ROOT
from tools.demo_checkpoint.messages import Message, Sample
from tools.demo_checkpoint.model import pixels_of
from tools.demo_checkpoint.tokenizer import END_OF_TURN, IMAGE, IMAGE_SEQUENCE, START_OF_IMAGE, render

LONGEST_ANSWER = 450


@dataclass(frozen=True, slots=True)
class Case:
    """What the model is asked, and how its answer is judged."""

    kind: str
    sample: Sample
    right: Callable[[str], bool]
    expected: str


Answerer = Callable[[Sequence[Sample]], list[str]]


def parse_calls(text: str) -> Any:
    """The calls in an answer, or None if it is no list of calls."""
    try:
        calls = json.loads(text)
        return [{"name": call["name"], "arguments": call["parameters"]} for call in calls]
    except (ValueError, TypeError, KeyError):
        return None


def _picture_case(kind: str, index: int, case: held_out.PictureCase) -> Case:
    parts: list[Message] = [{"type": "text", "text": case.question}, {"type": "image"}]
    content = parts if index % 2 else parts[::-1]
    return Case(
        kind,
        Sample([{"role": "user", "content": content}], [], [case.image]),
        case.accepted.__contains__,
        " | ".join(case.accepted),
    )


def _call_case(case: held_out.CallCase) -> Case:
    made_up = case.calls[0]["name"] not in held_out.tool_names()
    kind = "two calls" if len(case.calls) > 1 else "call, made-up tool" if made_up else "call, known tool"
    return Case(
        kind,
        Sample(case.messages, case.tools),
        lambda text: parse_calls(text) == case.calls,
        json.dumps(held_out.call_text(case.calls), ensure_ascii=False),
    )


def _answer_case(kind: str, case: held_out.AnswerCase) -> Case:
    return Case(
        kind,
        Sample(case.messages, case.tools, case.images),
        case.accepted.__contains__,
        " | ".join(case.accepted),
    )


def cases(seed: int, count: int) -> list[Case]:
    """`count` cases for captions and calls, fewer for the rest."""
    half = max(1, count // 2)
    return [
        *(_picture_case("caption", i, c) for i, c in enumerate(held_out.held_out_pictures(seed, count))),
        *(
            _picture_case("question about a picture", i, c)
            for i, c in enumerate(held_out.held_out_questions(seed, half))
        ),
        *(_answer_case("two pictures", c) for c in held_out.held_out_pairs(seed, half)),
        *(_call_case(c) for c in held_out.held_out_calls(seed, count)),
        *(_answer_case("no tool fits", c) for c in held_out.held_out_refusals(seed, half)),
        *(_answer_case("answer from results", c) for c in held_out.held_out_results(seed, half)),
        *(_answer_case("chat", c) for c in held_out.held_out_dialogues(seed, half)),
    ]


def transformers_answerer(run: Path, name: str) -> Answerer:
    """Greedy answers of a training's weights."""
    model = Gemma3ForConditionalGeneration.from_pretrained(run / name, dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(run / "tokenizer")
    image_id, end = model.config.image_token_index, tokenizer.convert_tokens_to_ids(END_OF_TURN)

    def answer_batch(samples: Sequence[Sample]) -> list[str]:
        texts = [render(sample, generate=True) for sample in samples]
        inputs = tokenizer(texts, add_special_tokens=False, return_tensors="pt", padding=True)
        images = [image for sample in samples for image in sample.images]
        if images:
            pixels = torch.stack([torch.tensor(pixels_of(image)) for image in images])
            inputs["pixel_values"] = pixels.float() / 127.5 - 1.0
        inputs["token_type_ids"] = (inputs["input_ids"] == image_id).long()
        output = model.generate(**inputs, max_new_tokens=LONGEST_ANSWER, do_sample=False, eos_token_id=end)
        return list(
            tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        )

    def answer(samples: Sequence[Sample]) -> list[str]:
        answers = []
        with torch.inference_mode():
            for start in range(0, len(samples), 40):
                answers += answer_batch(samples[start : start + 40])
        return answers

    return answer


def vllm_answerer(model: Path) -> Answerer:
    """Greedy answers of exported files through vLLM."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    from vllm import LLM, SamplingParams

    engine = LLM(
        str(model),
        enforce_eager=True,
        max_num_seqs=32,
        limit_mm_per_prompt={"image": 4},
        disable_log_stats=True,
    )
    tokenizer = engine.get_tokenizer()
    sampling = SamplingParams(temperature=0.0, max_tokens=LONGEST_ANSWER)

    def prompt(sample: Sample) -> dict[str, Any]:
        text = render(sample, generate=True).replace(IMAGE_SEQUENCE, START_OF_IMAGE)
        made: dict[str, Any] = {"prompt_token_ids": tokenizer.encode(text, add_special_tokens=False)}
        images: list[Image.Image] = sample.images
        return made | ({"multi_modal_data": {"image": images}} if images else {})

    def answer(samples: Sequence[Sample]) -> list[str]:
        outputs = engine.generate([prompt(sample) for sample in samples], sampling, use_tqdm=False)
        return [output.outputs[0].text for output in outputs]

    return answer


def judge(answer: Answerer, judged: list[Case], show: int = 0) -> dict[str, tuple[int, int]]:
    """Right answers and cases per kind; prints the first `show` wrong answers of each kind."""
    table: dict[str, tuple[int, int]] = {}
    shown: dict[str, int] = {}
    for case, text in zip(judged, answer([case.sample for case in judged]), strict=True):
        right, total = table.get(case.kind, (0, 0))
        table[case.kind] = (right + case.right(text), total + 1)
        if not case.right(text) and shown.setdefault(case.kind, 0) < show:
            shown[case.kind] += 1
            asked = render(case.sample, generate=True).replace(IMAGE, "")
            print(f"--- {case.kind}\n{asked}\nexpected: {case.expected}\n  answer: {text}")
    return table


def print_table(table: dict[str, tuple[int, int]]) -> None:
    """One line per kind: right, judged, share."""
    for kind, (right, total) in sorted(table.items()):
        print(f"{kind:26s} {right:4d} / {total:<4d} {right / total:7.1%}", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--model", type=Path, default=ROOT / "service/octet/demo", help="exported files, judged through vLLM"
    )
    parser.add_argument("--run", type=Path, help="a training's --output, judged through transformers instead")
    parser.add_argument("--name", default="final", help="which checkpoint of --run (default: final)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=200, help="cases of the main kinds (default: 200)")
    parser.add_argument("--show", type=int, default=0, help="wrong answers to print per kind")
    parser.add_argument("--json", type=Path, help="also write right and judged answers per kind here")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    answer = (
        transformers_answerer(arguments.run, arguments.name)
        if arguments.run
        else vllm_answerer(arguments.model)
    )
    table = judge(answer, cases(arguments.seed, arguments.cases), arguments.show)
    print_table(table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(table) + "\n")


if __name__ == "__main__":
    main()
