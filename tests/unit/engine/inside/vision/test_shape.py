"""The work that a picture consists of: every unit once, in an order that can be carried out."""

from types import SimpleNamespace

import pytest

from octet.engine.vllm.inside.vision.shape import TowerShape

# Gemma 3 4B's tower.
CONFIG = SimpleNamespace(
    num_hidden_layers=27,
    image_size=896,
    patch_size=14,
    hidden_size=1152,
    intermediate_size=4304,
    num_channels=3,
)


def small(patches: int, block_rows: int, layers: int = 3) -> TowerShape:
    return TowerShape(layers, patches, hidden=8, intermediate=24, patch_values=12, block_rows=block_rows)


@pytest.mark.parametrize(("patches", "block_rows"), [(16, 16), (16, 4), (17, 4), (3, 4), (1, 1)])
@pytest.mark.parametrize("crops", [1, 3])
def test_every_patch_passes_every_half_of_every_layer_in_order(
    patches: int, block_rows: int, crops: int
) -> None:
    shape = small(patches, block_rows)
    done: dict[tuple[int, int, bool], list[int]] = {}
    for index in range(crops * shape.units_of_crop):
        unit = shape.unit(index)
        if unit.attends:
            projected = done[unit.crop, unit.layer, False]
            assert projected == list(range(patches)), "all keys are there before anybody reads them"
        done.setdefault((unit.crop, unit.layer, unit.attends), []).extend(
            range(unit.rows.start, unit.rows.stop)
        )
    halves = [(crop, layer, half) for crop in range(crops) for layer in range(3) for half in (False, True)]
    assert list(done) == halves
    assert all(rows == list(range(patches)) for rows in done.values())


def test_a_crop_begins_and_ends_once() -> None:
    shape = small(10, 4)
    units = [shape.unit(index) for index in range(2 * shape.units_of_crop)]
    begins = [index for index, unit in enumerate(units) if unit.begins_crop]
    ends = [index for index, unit in enumerate(units) if unit.ends_crop]
    assert begins == [0, shape.units_of_crop]
    assert ends == [shape.units_of_crop - 1, 2 * shape.units_of_crop - 1]
    assert [unit.crop for unit in units] == [0] * shape.units_of_crop + [1] * shape.units_of_crop


def test_operations_are_those_of_the_products() -> None:
    """Two for each multiplication with addition, whatever the blocks."""
    shape = TowerShape.of(CONFIG)
    patches, hidden, inner = 4096, 1152, 4304
    weights = 4 * hidden**2 + 2 * hidden * inner
    layer = 2 * patches * weights + 4 * patches**2 * hidden
    whole = 27 * layer + 2 * patches * 3 * 14**2 * hidden
    assert shape.picture_operations() == whole
    assert shape.picture_operations(crops=5) == 5 * whole


def test_the_least_that_a_step_can_do_of_a_real_picture_is_a_small_part_of_it() -> None:
    shape = TowerShape.of(CONFIG)
    largest = max(map(shape.operations, range(shape.units_of_crop)))
    assert largest * 400 < shape.picture_operations()
