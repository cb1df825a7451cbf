import math
import random

import numpy as np
import pytest

from tools.demo_checkpoint import draw
from tools.demo_checkpoint.draw import COLOURS, SHAPES, Group, Scene


def scenes(seed: int, count: int, held_out: bool = False) -> list[Scene]:
    rng = random.Random(seed)
    return [draw.random_scene(rng, draw.random_groups(rng), held_out) for _ in range(count)]


def test_the_canonical_order_is_by_count_then_colour_then_shape() -> None:
    three, red, blue = Group("black", "star", 3), Group("red", "circle", 1), Group("blue", "square", 1)
    assert draw.in_order([three, red, blue]) == (blue, red, three)


@pytest.mark.parametrize("held_out", [False, True])
def test_objects_neither_touch_nor_leave_the_canvas(held_out: bool) -> None:
    for scene in scenes(1, 150, held_out):
        assert len(scene.things) == sum(group.count for group in scene.groups)
        for i, thing in enumerate(scene.things):
            x, y = thing.centre
            assert thing.radius <= x <= scene.width - thing.radius
            assert thing.radius <= y <= scene.height - thing.radius
            for other in scene.things[:i]:
                assert math.dist(thing.centre, other.centre) > thing.radius + other.radius


def test_all_colours_shapes_and_counts_occur() -> None:
    drawn = [group for scene in scenes(2, 600) for group in scene.groups]
    assert {(g.colour, g.shape) for g in drawn} == {(c, s) for c in COLOURS for s in SHAPES}
    assert {g.count for g in drawn} == {1, 2, 3, 4}


def test_training_and_held_out_shades_never_meet() -> None:
    rng = random.Random(3)
    for colour in COLOURS:
        training = {draw.shade(rng, colour, held_out=False) for _ in range(400)}
        held_out = {draw.shade(rng, colour, held_out=True) for _ in range(400)}
        assert not training & held_out


def test_training_and_held_out_canvases_never_meet() -> None:
    training = {(s.width, s.height) for s in scenes(4, 300)}
    held_out = {(s.width, s.height) for s in scenes(5, 300, held_out=True)}
    assert not training & held_out


def filled(width: int, height: int, shape: str, corners: tuple[draw.Point, ...] | None) -> Scene:
    group = Group("red", shape, 1)
    thing = draw.Thing(
        group, (width / 2, height / 2), 0.4 * min(width, height), corners, (255, 0, 0), 0.0, (0, 0, 0)
    )
    return Scene(width, height, (255, 255, 255), (group,), (thing,))


class Plain(random.Random):
    """Takes no chances: no gradient, no noise, no compression."""

    def random(self) -> float:
        return 0.99


@pytest.mark.parametrize(
    ("shape", "corners", "area"),
    [
        ("circle", None, math.pi),
        ("square", ((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)), 2.56),
        ("triangle", ((0.0, -1.0), (0.9, 0.7), (-0.9, 0.7)), 1.53),
    ],
)
def test_the_renderers_agree_on_an_objects_area(
    shape: str, corners: tuple[draw.Point, ...] | None, area: float
) -> None:
    scene = filled(120, 90, shape, corners)
    expected = area * scene.things[0].radius ** 2
    for renderer in (*draw.TRAINING_RENDERERS, draw.HELD_OUT_RENDERER):
        pixels = np.asarray(renderer(scene, Plain(1)), dtype=float)
        covered = ((255 - pixels[..., 1]) / 255).sum()
        assert covered == pytest.approx(expected, rel=0.06), renderer.__name__


def test_an_outline_is_drawn_without_a_filling() -> None:
    group = Group("red", "circle", 1)
    thing = draw.Thing(group, (50.0, 50.0), 30.0, None, None, 8.0, (255, 0, 0))
    scene = Scene(100, 100, (255, 255, 255), (group,), (thing,))
    for renderer in (*draw.TRAINING_RENDERERS, draw.HELD_OUT_RENDERER):
        picture = renderer(scene, Plain(1))
        assert picture.getpixel((50, 50)) == (255, 255, 255), renderer.__name__
        assert picture.getpixel((50, 24)) == (255, 0, 0), renderer.__name__
