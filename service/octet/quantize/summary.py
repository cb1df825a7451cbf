"""A plan in words: what will be quantized, what stays and why, and how long the files will be."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from octet.quantize.layers import WEIGHT
from octet.quantize.plan import Plan, TensorPlan


@dataclass(slots=True)
class _Sum:
    """Tensors whose names differ in their numbers only."""

    count: int = 0
    before: int = 0
    after: int = 0

    def add(self, tensor: TensorPlan) -> None:
        self.count += 1
        self.before += tensor.source.size
        self.after += tensor.target.size + (tensor.scale.size if tensor.scale else 0)

    @property
    def sizes(self) -> str:
        return f"{_length(self.before)} become {_length(self.after)}"


def describe(plan: Plan) -> Iterator[str]:
    """The plan's lines. A `*` in a layer's name stands for numbers, of which the line counts the layers."""
    quantized: dict[tuple[str, str], _Sum] = {}
    copied = _Sum()
    for shard in plan.shards:
        for tensor in shard.tensors:
            if tensor.scale is None:
                copied.add(tensor)
                continue
            key = _numberless(tensor.target.name.removesuffix(WEIGHT)), str(list(tensor.target.shape))
            quantized.setdefault(key, _Sum()).add(tensor)
    yield "quantized:"
    for (name, shape), total in quantized.items():
        yield f"  {name}: {total.count} of {shape}, {total.sizes}"
    kept = Counter((_numberless(module), reason) for module, reason in plan.kept.items())
    if kept:
        yield "linear layers that stay:"
    for (name, reason), count in kept.items():
        yield f"  {name}: {count}; {reason}"
    yield f"copied with all else: {copied.count} tensors, {_length(copied.before)}"
    before = sum(tensor.source.size for shard in plan.shards for tensor in shard.tensors)
    after = sum(shard.header.file_size for shard in plan.shards)
    yield f"in all {_length(before)} become {_length(after)} in {len(plan.shards)} file(s)"


def _numberless(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)


def _length(size: float) -> str:
    unit = "bytes"
    for larger in ("kB", "MB", "GB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}" if size < 1000 else f"{size:,.0f} {unit}"
