"""Turns drawn samples into training batches, in worker processes."""

import random
from collections import deque
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset
from transformers import PreTrainedTokenizerBase

from tools.demo_checkpoint.dialogues import training_dialogue, warm_up_dialogue
from tools.demo_checkpoint.draw import Scene
from tools.demo_checkpoint.messages import Sample
from tools.demo_checkpoint.model import (
    CONTEXT,
    IMAGE_SIZE,
    PATCH_SIZE,
    Batch,
    describe_groups,
    describe_patches,
    pixels_of,
)
from tools.demo_checkpoint.pictures import picture, training_picture
from tools.demo_checkpoint.tokenizer import END_OF_TURN, START_OF_TURN, render

# Sequences per step and process.
PICTURES, DIALOGUES, COPIES, SIGHTS = 16, 12, 16, 64
_STRETCHED = 0.35
_SIGHTS_PER_DRAWING = 4
_MEMORY = 3000
# Few different lengths: matrix kernels are compiled once a shape, and freed memory fits again.
_LENGTH_STEP = 32

Encoded = tuple[list[int], list[int], list[int]]
Sight = tuple[np.ndarray, list[int], np.ndarray]


class Encoder:
    """Tokenizes whole conversations and marks what is to be learnt: the model's turns."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
        self.pad = tokenizer.pad_token_id
        self.opening = tokenizer.encode(f"{START_OF_TURN}model\n", add_special_tokens=False)

    def encode(self, sample: Sample) -> tuple[list[int], list[int]]:
        """Ids without the last, and targets: the next id inside the model's turns, else -100."""
        ids = self.tokenizer.encode(render(sample), add_special_tokens=False)
        targets = [-100] * len(ids)
        width, i = len(self.opening), 0
        while i + width <= len(ids):
            if ids[i : i + width] != self.opening:
                i += 1
                continue
            end = ids.index(self.end, i)
            targets[i + width - 1 : end] = ids[i + width : end + 1]
            i = end
        return ids[:-1], targets[:-1]


def _positions(rng: random.Random, length: int) -> list[int]:
    """Positions, some with gaps, so that distances occur that the sequences themselves are too short
    for.
    """
    if rng.random() > _STRETCHED:
        return list(range(length))
    room = CONTEXT - 1 - length
    gaps = sorted(
        (rng.randrange(1, length), int(room * rng.random() ** 2 / 3)) for _ in range(rng.randint(1, 3))
    )
    positions, shift = [], 0
    for i in range(length):
        while gaps and gaps[0][0] == i:
            shift += gaps.pop(0)[1]
        positions.append(i + shift)
    return positions


def _pad(rows: list[Encoded], pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    length = -(-max(len(ids) for ids, _, _ in rows) // _LENGTH_STEP) * _LENGTH_STEP
    ids = np.full((len(rows), length), pad, dtype=np.int64)
    positions = np.zeros_like(ids)
    targets = np.full_like(ids, -100)
    for i, row in enumerate(rows):
        for array, values in zip((ids, positions, targets), row, strict=True):
            array[i, : len(values)] = values
    return torch.from_numpy(ids), torch.from_numpy(positions), torch.from_numpy(targets)


def _turned(rng: random.Random, sight: Sight) -> Sight:
    """The same picture in one of its eight symmetries: what it shows stays true."""
    pixels, groups, patches = sight
    quarters, side = rng.randrange(4), IMAGE_SIZE // PATCH_SIZE
    pixels, patches = np.rot90(pixels, quarters, (1, 2)), np.rot90(patches.reshape(side, side, 3), quarters)
    if rng.random() < 0.5:
        pixels, patches = pixels[:, :, ::-1], patches[:, ::-1]
    return pixels, groups, patches.reshape(side * side, 3)


def _stack(sights: list[Sight]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixels, group classes and patch classes of the pictures."""
    if not sights:
        none = torch.empty(0, dtype=torch.int64)
        return torch.empty((0, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=torch.uint8), none, none
    pixels, groups, patches = zip(*sights, strict=True)
    return torch.from_numpy(np.stack(pixels)), torch.tensor(groups), torch.from_numpy(np.stack(patches))


class Batches(IterableDataset[list[Batch]]):
    """An endless stream of steps; each step is a list of batches whose losses are summed.

    kind "vision": pictures alone; "copy": short dialogues; "joint": conversations about pictures, dialogues,
    and further pictures alone. Sequences are sorted by length and split into several batches, so that little
    is padding. Every `rank` draws its own stream.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, kind: str, seed: int, rank: int) -> None:
        self.encoder = Encoder(tokenizer)
        self.kind = kind
        self.seed = seed
        self.rank = rank
        self.memory: deque[Sight] = deque(maxlen=_MEMORY)

    def __iter__(self) -> Iterator[list[Batch]]:
        rng = random.Random(f"{self.kind} {self.seed} {self.rank}")
        make = {"vision": self._vision, "copy": self._copy, "joint": self._joint}[self.kind]
        while True:
            yield make(rng)

    def _vision(self, rng: random.Random) -> list[Batch]:
        """Pictures alone: some new, the others drawn earlier and turned, which costs next to nothing."""
        sights = [self._sight(*picture(rng)) for _ in range(SIGHTS // _SIGHTS_PER_DRAWING)]
        remembered = self.memory or sights
        turned = [_turned(rng, rng.choice(remembered)) for _ in range(SIGHTS - len(sights))]
        self.memory.extend(sights)
        empty = torch.empty(0, dtype=torch.int64)
        return [Batch(empty, empty, empty, *_stack([*sights, *turned]))]

    def _copy(self, rng: random.Random) -> list[Batch]:
        return self._dialogues(rng, warm_up_dialogue, COPIES)

    def _joint(self, rng: random.Random) -> list[Batch]:
        drawn = [training_picture(rng) for _ in range(PICTURES)]
        rows = [(self._row(rng, sample), sample, scenes) for sample, scenes in drawn]
        rows.sort(key=lambda row: len(row[0][0]))
        batches = []
        for part in (rows[: PICTURES * 3 // 4], rows[PICTURES * 3 // 4 :]):
            sights = [
                self._sight(scene, image)
                for _, sample, scenes in part
                for scene, image in zip(scenes, sample.images, strict=True)
            ]
            self.memory.extend(sights)
            batches.append(Batch(*_pad([row for row, _, _ in part], self.encoder.pad), *_stack(sights)))
        return [*batches, *self._dialogues(rng, training_dialogue, DIALOGUES), *self._vision(rng)]

    def _dialogues(
        self, rng: random.Random, draw: Callable[[random.Random], Sample], count: int
    ) -> list[Batch]:
        rows = sorted((self._row(rng, draw(rng)) for _ in range(count)), key=lambda row: len(row[0]))
        cuts = (0, count * 3 // 8, count * 6 // 8, count)
        parts = [rows[start:end] for start, end in pairwise(cuts)]
        return [Batch(*_pad(part, self.encoder.pad), *_stack([])) for part in parts]

    def _row(self, rng: random.Random, sample: Sample) -> Encoded:
        ids, targets = self.encoder.encode(sample)
        return ids, _positions(rng, len(ids)), targets

    @staticmethod
    def _sight(scene: Scene, image: Image.Image) -> Sight:
        return pixels_of(image), describe_groups(scene.groups), describe_patches(scene)


def loader(tokenizer: PreTrainedTokenizerBase, kind: str, seed: int, rank: int) -> Iterator[list[Batch]]:
    """Steps of `kind`, drawn ahead by one worker process."""
    data = Batches(tokenizer, kind, seed, rank)
    return iter(DataLoader(data, batch_size=None, num_workers=1, prefetch_factor=4))
