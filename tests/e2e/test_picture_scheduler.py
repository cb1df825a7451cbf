"""vLLM's scheduler with pictures left out of its steps, over a model of the workers; no engine.

The workers are told what to encode, what to forget and which tokens to compute. Whatever happens, they must
have a picture when its tokens are computed, every request must come to its end, and nobody waits for nothing.
"""

import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from octet import demo
from octet.engine.vllm.inside.vision import pictures as pictures_module

BLOCK = 16
# As long as a picture of the demo checkpoint with its newlines, and what of it embeddings stand for.
RANGE, MASK = 20, [False, False, *[True] * 16, False, False]
UNITS = 8
# That a slice takes.
ENCODING_SECONDS = 1.0


@pytest.fixture(scope="module")
def vllm_config() -> Any:
    from vllm import EngineArgs

    engine = EngineArgs(str(demo.PATH), max_num_seqs=4, max_num_batched_tokens=96, max_model_len=1024)
    config = engine.create_engine_config()
    config.cache_config.num_gpu_blocks = 64
    return config


class Workers:
    """What the workers would hold and do, and what must be true of it."""

    def __init__(self) -> None:
        self.cache: set[str] = set()
        self.begun: dict[str, int] = {}
        self.slices: list[pictures_module.Slice] = []

    def follow(self, output: Any, requests: dict[str, Any]) -> None:
        self.cache -= set(output.free_encoder_mm_hashes)
        told = getattr(output, "octet_pictures", None)
        if told is not None:
            for picture in told.forget:
                del self.begun[picture]
            if told.slice is not None:
                self._encode(told.slice)
        assert output.scheduled_encoder_inputs == {}, "nothing is encoded in one go"
        started = {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
        cached = output.scheduled_cached_reqs
        started |= dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        for request_id, count in output.num_scheduled_tokens.items():
            self._compute(requests[request_id], started[request_id], count)

    def _encode(self, part: pictures_module.Slice) -> None:
        if part.item is not None:
            assert part.start == 0
            assert part.picture not in self.cache
            self.begun[part.picture] = 0
        assert self.begun[part.picture] == part.start < part.stop
        self.begun[part.picture] = part.stop
        self.slices.append(part)
        if part.stop == part.units:
            del self.begun[part.picture]
            self.cache.add(part.picture)

    def _compute(self, request: Any, start: int, count: int) -> None:
        for feature in request.mm_features:
            inside = start + count - feature.mm_position.offset
            assert not (0 < inside < RANGE and MASK[inside - 1] and MASK[inside]), "a picture is cut"
            first = max(start, feature.mm_position.offset)
            last = min(start + count, feature.mm_position.offset + RANGE)
            if any(MASK[position - feature.mm_position.offset] for position in range(first, last)):
                assert feature.identifier in self.cache, "the tokens of a picture need it"


class Core:
    """The scheduler, requests, and the model of the workers."""

    def __init__(self, config: Any, *, blocks: int = 64, room: int | None = None) -> None:
        from vllm.utils.hashing import get_hash_fn_by_name
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
        from vllm.v1.structured_output import StructuredOutputManager

        from octet.engine.vllm.inside.vision.scheduler import PictureScheduler

        hash_function = get_hash_fn_by_name("sha256")
        init_none_hash(hash_function)
        self._hasher = get_request_block_hasher(BLOCK, hash_function)
        spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=8, dtype=torch.float32)
        config.cache_config.num_gpu_blocks = blocks
        self.scheduler = PictureScheduler(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(blocks, [], [KVCacheGroupSpec(["layer"], spec)]),
            structured_output_manager=StructuredOutputManager(config),
            block_size=BLOCK,
            log_stats=False,
        )
        if room is not None:
            manager = self.scheduler.encoder_cache_manager
            manager.cache_size = manager.num_free_slots = manager.num_freeable_slots = room
        self.workers = Workers()
        self.requests: dict[str, Any] = {}
        self.said: dict[str, int] = {}

    def add(
        self,
        name: str,
        *pictures: str,
        text: int = 6,
        tokens: int = 3,
        crops: int = 1,
        priority: int = 0,
    ) -> None:
        from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange
        from vllm.sampling_params import SamplingParams
        from vllm.v1.request import Request

        prompt: list[int] = []
        features = []
        for picture in pictures:
            prompt += [len(name) * 40 + len(prompt) + 10] * text
            position = PlaceholderRange(len(prompt), RANGE, is_embed=torch.tensor(MASK))
            data: Any = {"num_patches": SimpleNamespace(data=torch.tensor(crops))}
            features.append(MultiModalFeatureSpec(data, "image", picture, position, picture))
            prompt += [9] * RANGE
        prompt += [len(name) + 3] * text
        parameters = SamplingParams(max_tokens=tokens, ignore_eos=True)
        parameters.update_from_generation_config({}, 1)
        self.requests[name] = Request(
            name,
            prompt,
            parameters,
            None,
            mm_features=features,
            block_hasher=self._hasher,
            priority=priority,
        )
        self.said[name] = 0
        self.scheduler.add_request(self.requests[name])

    def cancel(self, name: str) -> None:
        from vllm.v1.request import RequestStatus

        self.scheduler.finish_requests(name, RequestStatus.FINISHED_ABORTED)

    def step(self) -> Any:
        """One step: its scheduler's output."""
        from vllm.v1.outputs import ModelRunnerOutput

        output = self.scheduler.schedule()
        self.workers.follow(output, self.requests)
        names = list(output.num_scheduled_tokens)
        sampled = []
        for name in names:
            request = self.requests[name]
            done = request.num_computed_tokens >= request.num_tokens
            sampled.append([7] if done else [])
            self.said[name] += done
        result = ModelRunnerOutput(names, {name: index for index, name in enumerate(names)}, sampled)
        told = getattr(output, "octet_pictures", None)
        if told is not None and told.slice is not None:
            result.octet_seconds = ENCODING_SECONDS
        self.scheduler.update_from_output(output, result)
        return output

    def run(self, limit: int = 5000) -> Iterator[Any]:
        """Steps until nothing is left to do, each of which does something."""
        idle = 0
        for _ in range(limit):
            if not self.scheduler.has_requests():
                return
            output = self.step()
            told = getattr(output, "octet_pictures", None)
            idle = 0 if output.num_scheduled_tokens or told else idle + 1
            assert idle < 3, "somebody waits for nothing"
            yield output
        raise AssertionError("no end in sight")


def started(core: Core) -> list[str]:
    return [part.picture for part in core.workers.slices if part.start == 0]


def test_pictures_are_encoded_beside_what_is_decoded(vllm_config: Any) -> None:
    core = Core(vllm_config)
    core.add("stream", tokens=80)
    core.step()
    core.add("look", "red", "blue")
    with_slice = [out for out in core.run() if getattr(out, "octet_pictures", None)]
    assert sum(out.octet_pictures.slice is not None for out in with_slice) == 2 * UNITS
    assert all("stream" in out.num_scheduled_tokens for out in with_slice)
    assert core.said == {"stream": 80, "look": 3}


def test_a_picture_alone_needs_no_tokens(vllm_config: Any) -> None:
    core = Core(vllm_config)
    core.add("look", "red")
    counts = [out.total_num_scheduled_tokens for out in core.run()]
    assert counts[:UNITS] == [0] * UNITS
    assert core.said == {"look": 3}


def test_new_texts_pass_those_who_wait(vllm_config: Any) -> None:
    core = Core(vllm_config)
    for number in range(6):
        core.add(f"look {number}", f"picture {number}")
    core.step()
    core.add("text")
    assert core.step().num_scheduled_tokens.keys() == {"text"}
    list(core.run())
    assert core.said["text"] == core.said["look 5"] == 3
    assert started(core) == [f"picture {number}" for number in range(6)]


def test_a_prompt_that_is_cached_needs_no_picture(vllm_config: Any) -> None:
    core = Core(vllm_config)
    core.add("look", "red", text=BLOCK)
    list(core.run())
    core.scheduler.encoder_cache_manager.reset()
    core.workers.cache.clear()
    core.add("kool", "red", text=BLOCK)
    assert core.scheduler.kv_cache_manager.get_computed_blocks(core.requests["kool"])[1] > BLOCK + RANGE
    list(core.run())
    assert core.said["kool"] == 3
    assert started(core) == ["red"], "the first time only"


def test_a_picture_half_of_which_is_cached_is_encoded_again(vllm_config: Any) -> None:
    core = Core(vllm_config)
    core.add("look", "red", text=6)
    list(core.run())
    core.scheduler.encoder_cache_manager.reset()
    core.workers.cache.clear()
    core.add("kool", "red", text=6)
    hit = core.scheduler.kv_cache_manager.get_computed_blocks(core.requests["kool"])[1]
    assert 6 < hit < 6 + RANGE
    list(core.run())
    assert core.said["kool"] == 3
    assert started(core) == ["red", "red"]


@pytest.mark.parametrize("blocks", [12, 64])
@pytest.mark.parametrize("room", [16, 40, 400])
@pytest.mark.parametrize("seed", range(4))
def test_everybody_comes_to_an_end(vllm_config: Any, seed: int, room: int, blocks: int) -> None:
    """Requests and cancels at random, few pictures between them, with little memory of either kind."""
    drawn = random.Random(seed)
    core = Core(vllm_config, blocks=blocks, room=room)
    alive: list[str] = []
    for number in range(40):
        name = f"{'look' * drawn.randrange(1, 4)} {number}"
        shown = [f"picture {drawn.randrange(9)}" for _ in range(drawn.choice((0, 1, 1, 2, 4)))]
        core.add(name, *shown, text=drawn.randrange(1, 9), tokens=drawn.randrange(1, 20))
        alive.append(name)
        for _ in range(drawn.randrange(12)):
            if core.scheduler.has_requests():
                core.step()
        if drawn.random() < 0.3:
            core.cancel(alive.pop(drawn.randrange(len(alive))))
    list(core.run())
    for name in alive:
        assert core.said[name] >= core.requests[name].max_tokens
    assert core.workers.begun == {}
    assert core.scheduler._octet_pictures is not None
    assert core.scheduler._octet_pictures.idle


def test_other_models_keep_vllms_way(vllm_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from octet.engine.vllm.inside.vision import scheduler

    monkeypatch.setattr(scheduler, "_ARCHITECTURE", "AnotherForConditionalGeneration")
    core = Core(vllm_config)
    assert core.scheduler._octet_pictures is None
    core.add("look", "red")
    assert core.scheduler.schedule().scheduled_encoder_inputs == {"look": [0]}
