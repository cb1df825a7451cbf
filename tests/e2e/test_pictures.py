"""Pictures encoded in slices, step by step: who computes what meanwhile, and the answers stay the same."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from PIL import Image, ImageDraw

from octet import demo
from octet.engine.vllm.inside.vision import pictures
from octet.engine.vllm.inside.vision.pictures import Instruction, Slice
from tests.e2e.test_parallel import TURN

# 4 layers of 2 halves, each of one block: the demo checkpoint's tower.
UNITS = 8


def shape(color: str, *, wide: bool = False) -> Image.Image:
    image = Image.new("RGB", (192 if wide else 64, 64), "white")
    ImageDraw.Draw(image).ellipse((12, 12, 52, 52), fill=color)
    return image


@dataclass
class Step:
    """What a step told the workers to encode, and the tokens that it gave to whom."""

    told: Instruction | None
    tokens: dict[str, int] = field(default_factory=dict)

    @property
    def part(self) -> Slice | None:
        return self.told.slice if self.told else None


class Stepped:
    """vLLM's engine with its scheduler in this process and its worker in another, stepped by hand."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.scheduler = engine.engine_core.engine_core.scheduler
        self.answers: dict[str, list[int]] = {}
        self._told: list[Instruction | None] = []
        schedule = self.scheduler.schedule

        def recorded(*args: Any, **kwargs: Any) -> Any:
            output = schedule(*args, **kwargs)
            self._told.append(getattr(output, "octet_pictures", None))
            return output

        self.scheduler.schedule = recorded

    def add(self, name: str, *images: Image.Image, tokens: int = 6, pan_and_scan: bool = False) -> None:
        from vllm import SamplingParams

        prompt: dict[str, Any] = {"prompt": TURN.format("<start_of_image>" * len(images) + f"Say: {name}")}
        if images:
            prompt["multi_modal_data"] = {"image": list(images)}
        if pan_and_scan:
            prompt["mm_processor_kwargs"] = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 32}
        self.answers[name] = []
        parameters = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
        self.engine.add_request(name, prompt, parameters)

    def cancel(self, name: str) -> None:
        self.engine.abort_request([name], internal=False)

    def step(self) -> Step:
        outputs = self.engine.step()
        (told,) = self._told or [None]
        self._told.clear()
        step = Step(told)
        for output in outputs:
            name, said = output.request_id, list(output.outputs[0].token_ids)
            step.tokens[name] = len(said) - len(self.answers[name])
            self.answers[name] = said
        return step

    def steps(self) -> Iterator[Step]:
        """Steps until nothing is left to do."""
        while self.engine.has_unfinished_requests():
            yield self.step()

    def finish(self) -> list[Slice]:
        """Does what is left to do; the slices of it."""
        return [step.part for step in self.steps() if step.part]

    def forget(self) -> None:
        """Empties the caches, so that the same prompt is computed anew."""
        assert self.engine.reset_prefix_cache()
        self.engine.reset_encoder_cache()

    def half_encoded(self) -> list[str]:
        """The pictures of which the worker holds a half-finished state."""
        (names,) = self.engine.collective_rpc(lambda worker: list(worker.model_runner.octet_encoder._begun))
        return list(names)


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    from vllm import EngineArgs, LLMEngine, envs

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        engine = LLMEngine.from_engine_args(
            EngineArgs(
                str(demo.PATH),
                enforce_eager=True,
                max_num_seqs=8,
                limit_mm_per_prompt={"image": 6},
                distributed_executor_backend="mp",
            )
        )
    yield engine
    engine.engine_core.shutdown()
    # An engine core remembers its environment; the other tests of this process change theirs.
    envs.disable_envs_cache()


@pytest.fixture
def stepped(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stepped]:
    """An engine whose steps encode as little of a picture as they can, whatever its speed."""
    monkeypatch.setattr(pictures, "SLICE_SECONDS", 0.0)
    scheduler = engine.engine_core.engine_core.scheduler
    schedule = scheduler.schedule
    stepped = Stepped(engine)
    yield stepped
    scheduler.schedule = schedule
    stepped.forget()


PROMPTS: dict[str, dict[str, Any]] = {
    "one": {"images": [shape("red")]},
    "two": {"images": [shape("red"), shape("blue")]},
    "twice": {"images": [shape("green"), shape("green")]},
    "six": {"images": [shape(color) for color in ("red", "blue", "green", "black", "yellow", "gray")]},
    "crops": {"images": [shape("red", wide=True)], "pan_and_scan": True},
}


@pytest.mark.parametrize("name", PROMPTS)
def test_answers_are_those_of_pictures_encoded_in_one_go(
    stepped: Stepped, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = dict(PROMPTS[name])
    images = asked.pop("images")
    stepped.add(name, *images, **asked)
    parts = stepped.finish()
    sliced = stepped.answers[name]
    stepped.forget()
    monkeypatch.setattr(stepped.scheduler, "_octet_pictures", None)
    stepped.add(name, *images, **asked)
    assert stepped.finish() == []
    assert stepped.answers[name] == sliced
    assert len(sliced) == 6
    different = len({image.tobytes() for image in images})
    crops = sum(part.units for part in parts if part.start == 0) // UNITS
    assert len(parts) == crops * UNITS, "a unit a step"
    assert crops > different if name == "crops" else crops == different


def test_a_stream_goes_on_between_slices(stepped: Stepped) -> None:
    stepped.add("stream", tokens=60)
    stepped.step()
    stepped.add("look", shape("red"), shape("blue"))
    with_slices = 0
    for step in stepped.steps():
        if step.part:
            with_slices += 1
            assert step.tokens["stream"] == 1, "no step for pictures alone"
    assert with_slices == 2 * UNITS
    assert len(stepped.answers["stream"]) == 60
    assert len(stepped.answers["look"]) == 6


def test_new_texts_go_ahead_of_those_who_wait_for_pictures(stepped: Stepped) -> None:
    stepped.add("look", shape("red"), shape("blue"))
    stepped.add("second look", shape("yellow"))
    assert stepped.step().part
    stepped.add("text")
    step = stepped.step()
    assert step.part, "the picture is not done"
    assert step.tokens == {"text": 1}
    order = list(dict.fromkeys(part.picture for part in stepped.finish()))
    assert len(order) == 3
    assert all(len(stepped.answers[name]) == 6 for name in ("look", "second look", "text"))


def test_a_cancelled_picture_is_dropped_and_can_be_asked_for_again(stepped: Stepped) -> None:
    stepped.add("look", shape("red"))
    stepped.step()
    stepped.step()
    assert len(stepped.half_encoded()) == 1
    stepped.cancel("look")
    stepped.add("text")
    first = stepped.step()
    assert first.told is not None
    assert first.told.slice is None
    assert len(first.told.forget) == 1
    assert stepped.half_encoded() == []
    assert stepped.finish() == []
    stepped.add("look", shape("red"))
    assert len(stepped.finish()) == UNITS
    assert len(stepped.answers["look"]) == 6


def test_a_picture_that_others_show_too_outlives_its_request(stepped: Stepped) -> None:
    for name in ("first", "second"):
        stepped.add(name, shape("red"))
    assert stepped.step().part
    stepped.cancel("first")
    parts = stepped.finish()
    assert (parts[0].start, parts[-1].stop) == (1, UNITS)
    assert len(parts) == UNITS - 1, "encoded once"
    assert len(stepped.answers["second"]) == 6
    assert stepped.answers["first"] == []


def test_a_conversation_does_not_encode_its_pictures_again(stepped: Stepped) -> None:
    stepped.add("look", shape("red"))
    assert len(stepped.finish()) == UNITS
    said = stepped.answers["look"]
    stepped.add("look", shape("red"))
    assert stepped.finish() == []
    assert stepped.answers["look"] == said
