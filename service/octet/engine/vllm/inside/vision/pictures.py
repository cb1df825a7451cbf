"""Which picture the engine encodes next, how much of it in a step, and who waits for it.

The scheduler asks; it is told apart from vLLM's so that its rules can be tested without an engine. Requests,
their features and the cache are vLLM's (`Request`, `MultiModalFeatureSpec`, `EncoderCacheManager`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from octet.engine.vllm.inside.vision.shape import TowerShape
from octet.engine.vllm.priority import asked_priority

# What a step may spend on pictures at most. Whoever streams waits for it between two tokens.
SLICE_SECONDS = 0.15


@dataclass(frozen=True, slots=True)
class Slice:
    """Units [start, stop) of `units` of a picture, which its identifier names.

    `item` is the picture's processed data; only the first slice carries it.
    """

    picture: str
    start: int
    stop: int
    units: int
    item: Any | None


@dataclass(frozen=True, slots=True)
class Instruction:
    """What the workers do beside a step: forget pictures that nobody wants any more, then encode a slice."""

    forget: tuple[str, ...]
    slice: Slice | None


class _Encoding:
    """The picture that is being encoded: whose it is, and how far the workers have been told to go."""

    def __init__(self, request: Any, feature: int, crops: int, shape: TowerShape) -> None:
        self.request, self.feature = request, feature
        self.item = request.mm_features[feature].data
        self.picture: str = request.mm_features[feature].identifier
        self.units = crops * shape.units_of_crop
        self.position = 0

    @property
    def done(self) -> bool:
        return self.position == self.units


class PictureQueue:
    """The pictures that requests wait for, one of which is being encoded.

    A picture belongs in vLLM's cache of encoder outputs before its request computes the tokens that stand for
    it. Requests take turns, a picture each, so that one with many pictures does not keep the others from
    theirs. A request that has not begun yet waits for its first picture aside, and those behind it go ahead;
    one that has begun stops in front of the next picture that is missing.
    """

    def __init__(
        self,
        shape: TowerShape,
        cache: Any,
        *,
        computed: Callable[[Any], int],
        is_running: Callable[[Any], bool],
        by_priority: bool = False,
    ) -> None:
        """
        Args:
            shape: the tower's.
            cache: vLLM's EncoderCacheManager.
            computed: the tokens of a request that need not be computed any more.
            is_running: whether a request has begun and goes on.
            by_priority: whether a request with a smaller `priority` comes first.
        """
        self._shape, self._cache = shape, cache
        self._computed, self._is_running, self._by_priority = computed, is_running, by_priority
        # In the order of their turns.
        self._waiting: dict[str, Any] = {}
        self._encoding: _Encoding | None = None
        self._forget: list[str] = []
        self._seconds_per_operation: float | None = None

    @property
    def idle(self) -> bool:
        """Whether there is nothing to encode, to forget or to put into the cache."""
        return not (self._waiting or self._encoding or self._forget)

    def holds(self, request: Any) -> bool:
        """Whether a request that has not begun waits for its first picture; if so, the picture is queued."""
        needed = next(self._needed(request, self._computed(request)), None)
        if needed is None or self._is_cached(request, needed):
            return False
        self._waiting.setdefault(request.request_id, request)
        return True

    def limit(self, request: Any, computed: int, new: int, ahead: int) -> int:
        """How many of the `new` tokens after `computed` can be computed.

        They are those before the first picture that is missing, which is queued.
        `ahead` is how many tokens further the step reads (speculative decoding).
        """
        for index in self._needed(request, computed):
            start: int = request.mm_features[index].mm_position.offset
            if start >= computed + new + ahead:
                break
            if not self._is_cached(request, index):
                self._waiting.setdefault(request.request_id, request)
                return max(0, start - computed - ahead)
            # As the scheduler is about to do itself; but before that it makes room for a picture of which the
            # step computes no more than the newline, and must not take it from this one.
            self._cache.check_and_update_cache(request, index)
        return new

    def settle(self) -> None:
        """Puts a picture whose last slice has been sent into the cache, as soon as there is room.

        Workers carry steps out in order, so whatever is scheduled from now on finds it. It is held there for
        nobody in particular: a request that begins takes hold of it then, and one that cannot begin yet must
        not keep others from the room.
        """
        encoding = self._encoding
        if encoding is None or not encoding.done:
            return
        for request, index in self._ready():
            # Makes it the last of those that others would push out.
            self._cache.check_and_update_cache(request, index)
            self._cache.free_encoder_input(request, index)
        request, index, cache = encoding.request, encoding.feature, self._cache
        if cache.can_allocate(request, index, cache.cache_size, 0):
            cache.allocate(request, index)
            cache.free_encoder_input(request, index)
            self._encoding = None

    def next_instruction(self, spare_seconds: float = SLICE_SECONDS) -> Instruction | None:
        """What the workers shall do beside the step that has just been scheduled; None for nothing.

        Args:
            spare_seconds: that it may take, if that is less than SLICE_SECONDS.
        """
        self._drop_unwanted()
        if self._encoding is None:
            self._encoding = self._choose()
        part = self._next_slice(min(spare_seconds, SLICE_SECONDS))
        forget, self._forget = tuple(self._forget), []
        return Instruction(forget, part) if forget or part else None

    def measured(self, part: Slice, seconds: float) -> None:
        """Learns from the time that a slice took how large the next ones may be."""
        pace = seconds / sum(map(self._shape.operations, range(part.start, part.stop)))
        known = self._seconds_per_operation
        self._seconds_per_operation = pace if known is None else (known + pace) / 2

    def reset(self) -> None:
        """Gives up the picture that is being encoded, because the weights are about to change."""
        if self._encoding is not None:
            self._forget.append(self._encoding.picture)
            self._encoding = None

    def _needed(self, request: Any, computed: int) -> Iterator[int]:
        """The pictures of which tokens remain to be computed after the first `computed`, in their order."""
        for index, feature in enumerate(request.mm_features):
            position = feature.mm_position
            begun = max(0, computed - position.offset)
            if feature.modality != "image" or feature.data is None or begun >= position.length:
                continue
            first, last = position.get_embeds_indices_in_range(begun, position.length)
            if first < last:
                yield index

    def _is_cached(self, request: Any, index: int) -> bool:
        return self._cache.get_cached_num_encoder_embeds(request, index) is not None

    def _missing(self, request: Any) -> int | None:
        """The picture that a request needs next; None while that is in the cache."""
        needed = self._needed(request, self._computed(request))
        if self._is_running(request):
            return next((index for index in needed if not self._is_cached(request, index)), None)
        first = next(needed, None)
        return None if first is None or self._is_cached(request, first) else first

    def _drop_unwanted(self) -> None:
        self._waiting = {
            request_id: request
            for request_id, request in self._waiting.items()
            if not request.is_finished()
            and not (self._is_running(request) and self._missing(request) is None)
        }
        encoding = self._encoding
        # One that is complete goes into the cache all the same.
        if encoding is None or encoding.done or not encoding.request.is_finished():
            return
        for request in self._waiting.values():
            for index, feature in enumerate(request.mm_features):
                if feature.identifier == encoding.picture:
                    encoding.request, encoding.feature = request, index
                    return
        self.reset()

    def _choose(self) -> _Encoding | None:
        requests = list(self._waiting.values())
        if self._by_priority:
            requests.sort(key=lambda request: asked_priority(request.priority))
        ready = {
            request.mm_features[index].identifier: request.get_num_encoder_embeds(index)
            for request, index in self._ready()
        }
        room = self._cache.num_freeable_slots - sum(ready.values())
        for request in requests:
            index = self._missing(request)
            if index is None:
                continue
            # More for requests that cannot begin yet would push out what others of them wait with.
            if not self._is_running(request) and request.get_num_encoder_embeds(index) > room:
                continue
            # Its next turn comes after everybody else's.
            self._waiting[request.request_id] = self._waiting.pop(request.request_id)
            crops = int(request.mm_features[index].data["num_patches"].data)
            return _Encoding(request, index, crops, self._shape)
        return None

    def _ready(self) -> Iterator[tuple[Any, int]]:
        """Requests that have their first picture and have yet to begin, and which of theirs it is."""
        for request in self._waiting.values():
            if self._is_running(request):
                continue
            first = next(self._needed(request, self._computed(request)), None)
            if first is not None and self._is_cached(request, first):
                yield request, first

    def _next_slice(self, seconds: float) -> Slice | None:
        encoding = self._encoding
        if encoding is None or encoding.done:
            return None
        start = encoding.position
        encoding.position = self._stop(start, encoding.units, seconds)
        item = encoding.item if start == 0 else None
        return Slice(encoding.picture, start, encoding.position, encoding.units, item)

    def _stop(self, start: int, units: int, seconds: float) -> int:
        """Where a slice ends that takes about so long; it holds one unit at least."""
        stop = start + 1
        pace = self._seconds_per_operation
        if pace is None:
            return stop
        taken = pace * self._shape.operations(start)
        while stop < units and (taken := taken + pace * self._shape.operations(stop)) <= seconds:
            stop += 1
        return stop
