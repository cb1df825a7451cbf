"""Who waits for which picture, and what the workers are told: over vLLM's requests and its cache."""

from collections.abc import Callable, Iterator
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange
from vllm.sampling_params import SamplingParams
from vllm.v1.core.encoder_cache_manager import EncoderCacheManager
from vllm.v1.request import Request, RequestStatus

from octet.engine.vllm.inside.vision.pictures import SLICE_SECONDS, Instruction, PictureQueue, Slice
from octet.engine.vllm.inside.vision.shape import TowerShape
from octet.engine.vllm.priority import fair_priority

# 3 layers of 2 halves of 2 blocks: 12 units a crop.
SHAPE = TowerShape(layers=3, patches=8, hidden=4, intermediate=8, patch_values=12, block_rows=4)
UNITS = SHAPE.units_of_crop
TOKENS = 10
SPACE = 4


def item(crops: int = 1) -> Any:
    return {"num_patches": SimpleNamespace(data=crops), "pixel_values": SimpleNamespace(data=None)}


class Bench:
    """A queue, vLLM's cache, and the requests that the scheduler would know."""

    def __init__(self, room: int = 100, *, by_priority: bool = False, spare: float = 1.0) -> None:
        self.spare = spare
        self.cache = EncoderCacheManager(cache_size=room)
        self.queue = PictureQueue(
            SHAPE,
            self.cache,
            computed=lambda request: int(request.num_computed_tokens),
            is_running=lambda request: request.status == RequestStatus.RUNNING,
            by_priority=by_priority,
        )
        self.schedule: Callable[[], object] = lambda: None
        self._numbers: Iterator[int] = count()

    def request(self, *pictures: str, crops: int = 1, priority: int = 0) -> Request:
        """A request with these pictures, SPACE tokens of text in front of each of them and after the last."""
        features = [
            MultiModalFeatureSpec(
                data=item(crops),
                modality="image",
                identifier=name,
                mm_position=PlaceholderRange(SPACE + index * (TOKENS + SPACE), TOKENS),
            )
            for index, name in enumerate(pictures)
        ]
        length = SPACE + len(pictures) * (TOKENS + SPACE)
        return Request(
            f"request-{next(self._numbers)}",
            list(range(length)),
            SamplingParams(max_tokens=4),
            None,
            mm_features=features,
            priority=fair_priority(priority, 3),
        )

    def step(self) -> Instruction | None:
        """What a step tells the workers."""
        self.queue.settle()
        self.schedule()
        return None if self.queue.idle else self.queue.next_instruction(self.spare)

    def slices(self) -> Iterator[Slice]:
        """The slices of the steps until there are no more."""
        while (told := self.step()) and told.slice:
            yield told.slice

    def is_cached(self, picture: str) -> bool:
        return picture in self.cache.cached


def begin(request: Request, computed: int = 0) -> None:
    request.status, request.num_computed_tokens = RequestStatus.RUNNING, computed


def test_nothing_to_do_without_pictures() -> None:
    bench = Bench()
    text = bench.request()
    assert not bench.queue.holds(text)
    assert bench.queue.limit(text, 0, 4, 0) == 4
    assert bench.queue.idle
    assert bench.step() is None


@pytest.mark.parametrize("crops", [1, 3])
def test_a_request_waits_until_every_unit_of_its_picture_is_done(crops: int) -> None:
    bench = Bench()
    request = bench.request("cat", crops=crops)
    assert bench.queue.holds(request)
    done = 0
    for part in bench.slices():
        assert bench.queue.holds(request), "not before the slice that ends the picture has been sent"
        assert (part.picture, part.start, part.units) == ("cat", done, crops * UNITS)
        assert (part.item is not None) == (done == 0), "the data goes along once"
        done = part.stop
    assert done == crops * UNITS
    assert not bench.queue.holds(request)
    assert bench.queue.limit(request, 0, 18, 0) == 18


def test_slices_are_as_large_as_the_time_allows() -> None:
    bench = Bench()
    bench.queue.holds(bench.request("cat"))
    first = next(bench.slices())
    assert first.stop == 1, "nothing is known yet"
    operations = SHAPE.operations(0)
    bench.queue.measured(first, SLICE_SECONDS * operations / SHAPE.picture_operations())
    rest = next(bench.slices())
    assert (rest.start, rest.stop) == (1, UNITS), "all that remains takes less than it may"

    bench.queue.holds(bench.request("dog"))
    bench.queue.measured(rest, 1e6)
    assert all(part.stop == part.start + 1 for part in bench.slices()), "one unit at least, and no more"


@pytest.mark.parametrize("spare", [SLICE_SECONDS / 3, SLICE_SECONDS, 10 * SLICE_SECONDS])
def test_a_slice_keeps_to_its_time(spare: float) -> None:
    bench = Bench(spare=spare)
    bench.queue.holds(bench.request("cat"))
    pace = min(spare, SLICE_SECONDS) / SHAPE.picture_operations() * 4
    bench.queue.measured(next(bench.slices()), pace * SHAPE.operations(0))
    sizes = []
    for part in bench.slices():
        sizes.append(part.stop - part.start)
        assert pace * sum(map(SHAPE.operations, range(part.start, part.stop))) <= min(spare, SLICE_SECONDS)
    assert max(sizes) > 1


def test_one_that_has_begun_stops_in_front_of_the_next_picture() -> None:
    bench = Bench()
    request = bench.request("cat", "dog")
    bench.queue.holds(request)
    for part in bench.slices():
        assert part.picture == "cat"
    assert not bench.queue.holds(request)
    second = 2 * SPACE + TOKENS
    assert bench.queue.limit(request, 0, 32, 0) == second, "never within a picture"
    assert bench.queue.limit(request, 0, 32, 1) == second - 1, "whoever reads ahead stops earlier"
    assert bench.queue.limit(request, 0, second, 0) == second
    begin(request, second)
    assert bench.queue.limit(request, second, 14, 0) == 0
    assert {part.picture for part in bench.slices()} == {"dog"}
    assert bench.queue.limit(request, second, 14, 0) == 14


def test_requests_take_turns() -> None:
    bench = Bench()
    album, single = bench.request("a", "b", "c"), bench.request("cat")
    begin(album)
    assert bench.queue.limit(album, 0, 46, 0) == SPACE
    bench.queue.holds(single)
    order = list(dict.fromkeys(part.picture for part in bench.slices()))
    assert order == ["a", "cat", "b", "c"]


def test_priority_comes_before_turns() -> None:
    bench = Bench(by_priority=True)
    for name, priority in (("late", 5), ("soon", 1), ("later", 9)):
        bench.queue.holds(bench.request(name, priority=priority))
    assert list(dict.fromkeys(part.picture for part in bench.slices())) == ["soon", "late", "later"]


def test_a_picture_is_encoded_once_for_all_who_show_it() -> None:
    bench = Bench()
    requests = [bench.request("cat"), bench.request("cat"), bench.request("dog", "cat")]
    assert all(bench.queue.holds(request) for request in requests)
    begin(requests[2])
    seen = [part for part in bench.slices() if part.item]
    assert [part.picture for part in seen] == ["cat", "dog"]
    assert not any(bench.queue.holds(request) for request in requests[:2])


def test_the_same_picture_twice_in_one_request() -> None:
    bench = Bench()
    request = bench.request("cat", "cat")
    bench.queue.holds(request)
    assert sum(part.item is not None for part in bench.slices()) == 1
    assert bench.queue.limit(request, 0, 32, 0) == 32


def test_what_a_cancelled_request_waited_for_is_forgotten() -> None:
    bench = Bench()
    request = bench.request("cat")
    bench.queue.holds(request)
    next(bench.slices())
    request.status = RequestStatus.FINISHED_ABORTED
    assert bench.step() == Instruction(("cat",), None)
    assert bench.queue.idle
    assert not bench.is_cached("cat")


def test_another_request_takes_over_a_cancelled_ones_picture() -> None:
    bench = Bench()
    first, second = bench.request("cat"), bench.request("dog", "cat")
    begin(second)
    bench.queue.holds(first)
    bench.queue.limit(second, 0, 32, 0)
    begun = next(bench.slices())
    first.status = RequestStatus.FINISHED_ABORTED
    parts = [part for part in bench.slices() if part.picture == "cat"]
    assert (parts[0].start, parts[-1].stop) == (begun.stop, UNITS)
    assert bench.is_cached("cat")


def test_a_finished_picture_of_a_cancelled_request_is_kept() -> None:
    bench = Bench()
    request = bench.request("cat")
    bench.queue.holds(request)
    while (told := bench.step()) and told.slice and told.slice.stop < UNITS:
        pass
    request.status = RequestStatus.FINISHED_ABORTED
    assert bench.step() is None
    assert bench.is_cached("cat")
    assert not bench.queue.holds(bench.request("cat"))


def test_what_the_prefix_cache_holds_needs_no_picture() -> None:
    bench = Bench()
    request = bench.request("cat", "dog")
    request.num_computed_tokens = SPACE + TOKENS
    assert bench.queue.holds(request)
    assert {part.picture for part in bench.slices()} == {"dog"}


def test_a_picture_that_is_cached_in_part_is_needed_whole() -> None:
    bench = Bench()
    request = bench.request("cat")
    begin(request, SPACE + TOKENS - 1)
    assert bench.queue.limit(request, request.num_computed_tokens, 5, 0) == 0
    assert {part.picture for part in bench.slices()} == {"cat"}
    assert bench.queue.limit(request, request.num_computed_tokens, 5, 0) == 5


def test_tokens_around_a_picture_are_not_the_picture() -> None:
    """A placeholder range begins and ends with newlines that no embedding stands for."""
    import torch

    bench = Bench()
    request = bench.request("cat")
    mask = torch.tensor([False, False, *[True] * 5, False, False, False])
    request.mm_features[0].mm_position = PlaceholderRange(SPACE, TOKENS, is_embed=mask)
    assert bench.queue.limit(request, SPACE + 6, 8, 0) == 0
    assert bench.queue.limit(request, SPACE + 7, 7, 0) == 7


def test_pictures_wait_for_room_and_those_who_run_come_first() -> None:
    """Two pictures fit; what requests that cannot begin wait with never keeps others from computing."""
    bench = Bench(room=2 * TOKENS)
    waiting = [bench.request(name) for name in ("a", "b", "c")]
    for request in waiting:
        bench.queue.holds(request)
    assert list(dict.fromkeys(part.picture for part in bench.slices())) == ["a", "b"]
    assert bench.step() is None, "a third would push out the first"
    running = bench.request("d")
    begin(running, SPACE)
    bench.queue.limit(running, SPACE, 14, 0)
    bench.schedule = lambda: bench.cache.check_and_update_cache(running, 0)
    assert {part.picture for part in bench.slices()} == {"d"}
    assert bench.cache.get_freed_mm_hashes() == ["a"]
    assert bench.queue.limit(running, SPACE, 14, 0) == 14
    bench.schedule = lambda: bench.cache.free(running)
    assert {part.picture for part in bench.slices()} == {"c"}, "as soon as there is room, by turns"


def test_a_finished_picture_waits_until_others_have_let_go() -> None:
    bench = Bench(room=TOKENS)
    first, second = bench.request("a"), bench.request("b")
    bench.queue.holds(first)
    list(bench.slices())
    assert bench.cache.check_and_update_cache(first, 0)
    begin(first)
    begin(second)
    bench.queue.limit(second, 0, 18, 0)
    assert {part.picture for part in bench.slices()} == {"b"}
    assert not bench.is_cached("b")
    assert bench.queue.limit(second, 0, 18, 0) == SPACE
    bench.cache.free(first)
    bench.queue.settle()
    assert bench.is_cached("b")
    assert not bench.is_cached("a")
    assert bench.queue.limit(second, 0, 18, 0) == 18


def test_new_weights_make_a_half_encoded_picture_void() -> None:
    bench = Bench()
    request = bench.request("cat")
    bench.queue.holds(request)
    next(bench.slices())
    bench.queue.reset()
    told = bench.step()
    assert told is not None
    assert told.forget == ("cat",)
    assert told.slice is not None
    assert told.slice.start == 0
    assert told.slice.item is not None


@pytest.mark.parametrize("change", [{"modality": "audio"}, {"data": None}])
def test_what_the_tower_cannot_be_given_is_left_to_vllm(change: dict[str, Any]) -> None:
    bench = Bench()
    request = bench.request("cat")
    for name, value in change.items():
        setattr(request.mm_features[0], name, value)
    assert not bench.queue.holds(request)
    assert bench.queue.limit(request, 0, 18, 0) == 18
    assert bench.queue.idle
