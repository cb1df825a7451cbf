"""What encoding a picture consists of: units of work, in the order in which they are done, and their cost."""

from dataclasses import dataclass
from typing import Any

# Patches of a block. Fewer would multiply slower; more would make the least that a step can do longer.
BLOCK_ROWS = 256


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit's place: one block of patches in one half of one layer, for one crop.

    A layer's first half projects a block of patches to queries, keys and values; its second half, which needs
    the first half of all patches, attends and runs the feed-forward network.
    """

    crop: int
    layer: int
    attends: bool
    rows: slice
    begins_crop: bool
    ends_crop: bool


@dataclass(frozen=True, slots=True)
class TowerShape:
    """A SigLIP tower's dimensions.

    Attributes:
        layers: of the tower.
        patches: of a crop.
        hidden, intermediate: widths.
        patch_values: numbers in a patch: channels times its area.
        block_rows: patches of a unit.
    """

    layers: int
    patches: int
    hidden: int
    intermediate: int
    patch_values: int
    block_rows: int = BLOCK_ROWS

    @classmethod
    def of(cls, config: Any) -> "TowerShape":
        """The shape of a tower with this SiglipVisionConfig."""
        return cls(
            config.num_hidden_layers,
            (config.image_size // config.patch_size) ** 2,
            config.hidden_size,
            config.intermediate_size,
            config.num_channels * config.patch_size**2,
        )

    @property
    def blocks(self) -> int:
        """Blocks of patches in a crop."""
        return -(-self.patches // self.block_rows)

    @property
    def units_of_crop(self) -> int:
        """Units of work for one crop."""
        return self.layers * 2 * self.blocks

    def unit(self, index: int) -> Unit:
        """The unit at this place in the order of the work."""
        crop, within = divmod(index, self.units_of_crop)
        layer, rest = divmod(within, 2 * self.blocks)
        half, block = divmod(rest, self.blocks)
        start = block * self.block_rows
        rows = slice(start, min(start + self.block_rows, self.patches))
        return Unit(crop, layer, half == 1, rows, within == 0, within == self.units_of_crop - 1)

    def operations(self, index: int) -> int:
        """Floating-point operations of the products in a unit."""
        unit = self.unit(index)
        rows: int = unit.rows.stop - unit.rows.start
        if unit.attends:
            attention = 4 * rows * self.patches * self.hidden
            return attention + 2 * rows * self.hidden * (self.hidden + 2 * self.intermediate)
        embedding = 2 * self.patches * self.patch_values * self.hidden if unit.begins_crop else 0
        return embedding + 6 * rows * self.hidden**2

    def picture_operations(self, crops: int = 1) -> int:
        """Floating-point operations of the products in a whole picture."""
        return crops * sum(self.operations(index) for index in range(self.units_of_crop))
