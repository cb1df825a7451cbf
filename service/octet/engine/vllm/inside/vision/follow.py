"""The workers' side: what an engine step has them encode."""

import time
from collections.abc import MutableMapping

import torch

from octet.engine.vllm.inside.vision.pictures import Instruction
from octet.engine.vllm.inside.vision.tower import Encoding, SlicedTower


class Encoder:
    """The pictures of a worker that are on their way through its `tower`."""

    def __init__(self, tower: SlicedTower) -> None:
        self.tower = tower
        self._begun: dict[str, Encoding] = {}

    def follow(self, instruction: Instruction, cache: MutableMapping[str, torch.Tensor]) -> float:
        """Does what the scheduler says, and puts a finished picture into the `cache` of encoder outputs.

        Returns:
            The seconds that it took.
        """
        start = time.perf_counter()
        for picture in instruction.forget:
            self._begun.pop(picture, None)
            cache.pop(picture, None)
        part = instruction.slice
        if part is not None:
            if part.item is not None:
                self._begun[part.picture] = Encoding(self.tower, part.item["pixel_values"].data)
            encoding = self._begun[part.picture]
            encoding.advance(part.stop)
            if part.stop == part.units:
                cache[part.picture] = torch.cat(self._begun.pop(part.picture).projected)
        return time.perf_counter() - start
