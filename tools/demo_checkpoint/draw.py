"""Pictures of coloured shapes: random scenes and three independent renderers.

A scene says what is where (in pixels of its own canvas); a renderer turns it into an RGB picture. Training
draws with `draw_pil` and `draw_distance`; `draw_coverage` shares no code with them and is kept for held-out
pictures. Held-out scenes also use canvas sizes and shades that training never draws.
"""

import colorsys
import io
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

COLOURS = ("black", "blue", "green", "orange", "purple", "red", "white", "yellow")
SHAPES = ("circle", "square", "star", "triangle")
MOST_OBJECTS = 5

Rgb = tuple[int, int, int]
Point = tuple[float, float]

# Hue in degrees, saturation and value as (low, high); black and white are ranges of value alone.
_HSV_RANGES: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "red": ((-12, 9), (0.68, 1.0), (0.6, 1.0)),
    "orange": ((23, 40), (0.75, 1.0), (0.88, 1.0)),
    "yellow": ((50, 63), (0.6, 1.0), (0.84, 1.0)),
    "green": ((88, 155), (0.5, 1.0), (0.35, 1.0)),
    "blue": ((203, 246), (0.58, 1.0), (0.42, 1.0)),
    "purple": ((269, 301), (0.45, 1.0), (0.4, 0.85)),
}

# What people type first when they draw; these exact shades are only ever used in training.
_POPULAR: dict[str, tuple[Rgb, ...]] = {
    "black": ((0, 0, 0),),
    "blue": ((0, 0, 255), (30, 64, 220), (65, 105, 225), (30, 144, 255)),
    "green": ((0, 128, 0), (0, 255, 0), (34, 139, 34), (0, 200, 0)),
    "orange": ((255, 165, 0), (255, 140, 0)),
    "purple": ((128, 0, 128), (148, 0, 211), (138, 43, 226)),
    "red": ((255, 0, 0), (220, 20, 60), (200, 0, 0)),
    "white": ((255, 255, 255),),
    "yellow": ((255, 255, 0), (255, 215, 0), (240, 220, 30)),
}


@dataclass(frozen=True, slots=True)
class Group:
    """`count` objects of one colour and shape."""

    colour: str
    shape: str
    count: int


@dataclass(frozen=True, slots=True)
class Thing:
    """One object of `group`: centre and radius in pixels; `points` are the corners around the centre, in
    units of the radius, or None for a circle. `line` is the outline's width in pixels (0: none); `fill`
    None: outline only.
    """

    group: Group
    centre: Point
    radius: float
    points: tuple[Point, ...] | None
    fill: Rgb | None
    line: float
    line_colour: Rgb


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows: `groups` in the canonical order (see `in_order`)."""

    width: int
    height: int
    background: Rgb
    groups: tuple[Group, ...]
    things: tuple[Thing, ...]


def in_order(groups: list[Group]) -> tuple[Group, ...]:
    """The canonical order: fewer objects first, then by colour and shape in alphabetical order."""
    return tuple(sorted(groups, key=lambda g: (g.count, g.colour, g.shape)))


def shade(rng: random.Random, colour: str, held_out: bool) -> Rgb:
    """A shade of `colour`; training and held-out shades never meet."""
    if not held_out and rng.random() < 0.3:
        return rng.choice(_POPULAR[colour])
    while True:
        if colour == "black":
            level = rng.uniform(0, 34)
            rgb = tuple(round(max(0.0, level + rng.uniform(-6, 6))) for _ in range(3))
        elif colour == "white":
            level = rng.uniform(242, 255)
            rgb = tuple(round(min(255.0, level + rng.uniform(-4, 4))) for _ in range(3))
        else:
            hue, saturation, value = (rng.uniform(*r) for r in _HSV_RANGES[colour])
            rgb = tuple(round(255 * v) for v in colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value))
        red, green, blue = rgb
        if (rgb not in _POPULAR[colour]) and ((red + 3 * green + 5 * blue) % 7 == 0) == held_out:
            return red, green, blue


def _background(rng: random.Random, colours: list[Rgb]) -> Rgb:
    """A background that stands out from all `colours`."""

    def contrast(candidate: Rgb) -> float:
        return min(math.dist(candidate, c) for c in colours)

    tries: list[Rgb] = []
    for _ in range(12):
        kind = rng.random()
        if kind < 0.42:
            level = rng.choice((255, 255, 255, rng.randint(232, 254)))
            candidate = (level, level, level)
        elif kind < 0.57:
            level = rng.randint(70, 215)
            candidate = (level, level, level)
        elif kind < 0.72:
            level = rng.choice((0, 0, rng.randint(0, 50)))
            candidate = (level, level, level)
        else:
            hue, saturation, value = rng.random(), rng.uniform(0.04, 0.5), rng.uniform(0.15, 1)
            red, green, blue = (round(255 * v) for v in colorsys.hsv_to_rgb(hue, saturation, value))
            candidate = (red, green, blue)
        if contrast(candidate) > 130:
            return candidate
        tries.append(candidate)
    tries += [(255, 255, 255), (0, 0, 0), (128, 128, 128)]
    return max(tries, key=contrast)


def _corners(rng: random.Random, shape: str) -> tuple[Point, ...] | None:
    """Corners of `shape` in units of its radius, turned as people turn them (mostly not at all)."""
    if shape == "circle":
        return None
    if shape == "square":
        turn = 0.0 if rng.random() < 0.82 else rng.uniform(-20, 20)
        half = 0.84
        corners = [(-half, -half), (half, -half), (half, half), (-half, half)]
    elif shape == "triangle":
        turn = 0.0 if rng.random() < 0.6 else rng.uniform(0, 360)
        if rng.random() < 0.7:
            apex, base = rng.uniform(-0.25, 0.25) if rng.random() < 0.3 else 0.0, rng.uniform(0.75, 1.0)
            foot = rng.uniform(0.5, 0.85)
            corners = [(apex, -1.0), (base, foot), (-base, foot)]
        elif rng.random() < 0.5:
            corners = [(-0.8, -0.9), (0.9, 0.8), (-0.8, 0.8)]
        else:
            corners = [(0.0, 1.0), (0.9, -0.6), (-0.9, -0.6)]
    else:
        turn = 0.0 if rng.random() < 0.65 else rng.uniform(0, 72)
        inner = rng.uniform(0.36, 0.5)
        corners = []
        for i in range(10):
            angle, reach = math.pi * i / 5 - math.pi / 2, 1.0 if i % 2 == 0 else inner
            corners.append((reach * math.cos(angle), reach * math.sin(angle)))
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    return tuple((x * cos - y * sin, x * sin + y * cos) for x, y in corners)


def _canvas(rng: random.Random, held_out: bool) -> tuple[int, int]:
    """Width and height in pixels, from icons to small photographs, up to 11:5."""
    while True:
        if rng.random() < 0.35:
            width = height = rng.choice((64, 96, 100, 128, 200, 224, 256, 300))
            if held_out:
                width = height = width + rng.randint(1, 40)
        else:
            area_side = rng.uniform(60, 260)
            ratio = math.exp(rng.gauss(0, 0.34))
            width, height = round(area_side * math.sqrt(ratio)), round(area_side / math.sqrt(ratio))
        if max(width, height) <= 2.2 * min(width, height) and ((width + height) % 5 == 1) == held_out:
            return width, height


def _places(rng: random.Random, width: int, height: int, count: int) -> tuple[list[Point], list[float]]:
    """Centres and radii of `count` objects that neither touch nor leave the canvas."""
    scale = math.sqrt(width * height)
    largest = {1: 0.46, 2: 0.27, 3: 0.23, 4: 0.21, 5: 0.19}[count]
    base = scale * (0.09 + (largest - 0.09) * rng.random())
    even = rng.random() < 0.5
    layout = rng.random()
    while True:
        radii = [base * (1.0 if even else rng.uniform(0.85, 1.15)) for _ in range(count)]
        if layout < 0.25 and count > 1:
            centres = _row(rng, width, height, count, max(radii))
        else:
            centres = _scatter(rng, width, height, radii)
        if centres is not None:
            return centres, radii
        base *= 0.93
        if base < 0.085 * scale:
            layout = 1.0


def _row(rng: random.Random, width: int, height: int, count: int, radius: float) -> list[Point] | None:
    """Objects side by side or one above the other, evenly spaced; None if they do not fit."""
    along, across = (width, height) if (rng.random() < 0.75) == (width >= height) else (height, width)
    pitch = along / count
    if pitch < 2.15 * radius + 1 or across < 2 * radius + 2:
        return None
    pitch = rng.uniform(2.15 * radius + 1, pitch)
    start = along / 2 - pitch * (count - 1) / 2
    level = across / 2 if rng.random() < 0.6 else rng.uniform(radius + 1, across - radius - 1)
    line = [(start + pitch * i, level) for i in range(count)]
    return line if along == width else [(y, x) for x, y in line]


def _scatter(rng: random.Random, width: int, height: int, radii: list[float]) -> list[Point] | None:
    """Objects anywhere without touching; None if no place was found."""
    centres: list[Point] = []
    for i, radius in enumerate(radii):
        if 2 * radius + 2 > min(width, height):
            return None
        for _ in range(25):
            spot = (rng.uniform(radius + 1, width - radius - 1), rng.uniform(radius + 1, height - radius - 1))
            if all(
                math.dist(spot, c) > 1.08 * (radius + r) + 1 for c, r in zip(centres, radii[:i], strict=True)
            ):
                centres.append(spot)
                break
        else:
            return None
    return centres


def random_groups(rng: random.Random) -> tuple[Group, ...]:
    """One or two groups; counts of two and three are drawn most, since they are the hardest to tell
    apart.
    """
    first = Group(rng.choice(COLOURS), rng.choice(SHAPES), rng.choices((1, 2, 3, 4), (24, 26, 27, 23))[0])
    if rng.random() < 0.42:
        return (first,)
    while True:
        groups = [
            Group(rng.choice(COLOURS), rng.choice(SHAPES), rng.choices((1, 2, 3), (38, 34, 28))[0])
            for _ in range(2)
        ]
        if rng.random() < 0.15:
            groups[1] = Group(groups[0].colour, groups[1].shape, groups[1].count)
        kinds = {(g.colour, g.shape) for g in groups}
        if len(kinds) == 2 and sum(g.count for g in groups) <= MOST_OBJECTS:
            return in_order(groups)


def random_scene(rng: random.Random, groups: tuple[Group, ...], held_out: bool = False) -> Scene:
    """Places `groups` on a random canvas."""
    width, height = _canvas(rng, held_out)
    kinds = [group for group in groups for _ in range(group.count)]
    if rng.random() < 0.5:
        rng.shuffle(kinds)
    centres, radii = _places(rng, width, height, len(kinds))
    shades = {group: shade(rng, group.colour, held_out) for group in groups}
    background = _background(rng, list(shades.values()))
    varied = rng.random() < 0.2
    outline = rng.random()
    dark: Rgb = (20, 20, 20) if sum(background) > 300 else (225, 225, 225)
    things = []
    for group, centre, radius in zip(kinds, centres, radii, strict=True):
        rgb = shades[group]
        if varied:
            red, green, blue = (max(0, min(255, v + rng.randint(-9, 9))) for v in rgb)
            rgb = (red, green, blue)
        points = _corners(rng, group.shape)
        line, line_colour, fill = 0.0, rgb, rgb
        if outline < 0.1:
            line, line_colour = max(1.0, radius * rng.uniform(0.04, 0.12)), dark
        things.append(Thing(group, centre, radius, points, fill, line, line_colour))
    if outline > 0.97:
        things = [replace(t, fill=None, line=max(2.0, t.radius * rng.uniform(0.2, 0.3))) for t in things]
    return Scene(width, height, background, groups, tuple(things))


def draw_pil(scene: Scene, rng: random.Random) -> Image.Image:
    """Renders with PIL's ImageDraw: jagged edges, or smooth ones by drawing larger and shrinking."""
    zoom = rng.choice((1, 1, 2, 3))
    image = Image.new("RGB", (scene.width * zoom, scene.height * zoom), scene.background)
    pen = ImageDraw.Draw(image)
    for thing in scene.things:
        x, y, radius = thing.centre[0] * zoom, thing.centre[1] * zoom, thing.radius * zoom
        line = round(thing.line * zoom)
        outline = thing.line_colour if line else None
        if thing.points is None:
            box = (x - radius, y - radius, x + radius, y + radius)
            pen.ellipse(box, fill=thing.fill, outline=outline, width=max(line, 1))
            continue
        corners = [(x + px * radius, y + py * radius) for px, py in thing.points]
        if thing.fill is not None:
            pen.polygon(corners, fill=thing.fill)
        if outline is not None:
            pen.line([*corners, corners[0], corners[1]], fill=outline, width=line, joint="curve")
    return image if zoom == 1 else image.resize((scene.width, scene.height), Image.Resampling.BOX)


def _distance_to_polygon(x: np.ndarray, y: np.ndarray, corners: list[Point]) -> np.ndarray:
    """Signed distance in pixels from every (x, y) to a polygon, negative inside (after I. Quilez, "2D
    distance functions": nearest edge, sign by winding).
    """
    nearest = np.full(x.shape, np.inf, dtype=np.float32)
    inside = np.ones(x.shape, dtype=np.float32)
    for i, (ax, ay) in enumerate(corners):
        bx, by = corners[i - 1]
        ex, ey = bx - ax, by - ay
        wx, wy = x - ax, y - ay
        along = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey), 0, 1)
        np.minimum(nearest, (wx - ex * along) ** 2 + (wy - ey * along) ** 2, out=nearest)
        above, below, left = wy >= 0, y < by, ex * wy > ey * wx
        flip = (above & below & left) | ~(above | below | left)
        inside[flip] *= -1
    return np.sqrt(nearest) * inside


def draw_distance(scene: Scene, rng: random.Random) -> Image.Image:
    """Renders from signed distances with smooth or soft edges; sometimes a gradient and noise."""
    canvas = np.empty((scene.height, scene.width, 3), dtype=np.float32)
    canvas[:] = scene.background
    if rng.random() < 0.15:
        ramp = np.linspace(-1, 1, scene.height if rng.random() < 0.5 else scene.width, dtype=np.float32)
        ramp = ramp[:, None, None] if len(ramp) == scene.height else ramp[None, :, None]
        canvas = canvas + ramp * rng.uniform(4, 22)
    softness = rng.choice((0.5, 0.7, 1.0, 1.4))
    for thing in scene.things:
        (cx, cy), reach = thing.centre, thing.radius * 1.1 + thing.line + 3
        left, right = max(0, int(cx - reach)), min(scene.width, int(cx + reach) + 1)
        top, bottom = max(0, int(cy - reach)), min(scene.height, int(cy + reach) + 1)
        x = np.arange(left, right, dtype=np.float32)[None, :] + 0.5 - cx
        y = np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5 - cy
        x, y = np.broadcast_arrays(x, y)
        if thing.points is None:
            distance = np.sqrt(x * x + y * y) - thing.radius
        else:
            corners = [(px * thing.radius, py * thing.radius) for px, py in thing.points]
            distance = _distance_to_polygon(x, y, corners)
        part = canvas[top:bottom, left:right]
        if thing.fill is not None:
            cover = np.clip(0.5 - distance / (2 * softness), 0, 1)[..., None]
            part += cover * (np.array(thing.fill, dtype=np.float32) - part)
        if thing.line:
            ring = np.clip(0.5 - (np.abs(distance + thing.line / 2) - thing.line / 2) / (2 * softness), 0, 1)
            part += ring[..., None] * (np.array(thing.line_colour, dtype=np.float32) - part)
    if rng.random() < 0.15:
        noise = np.random.default_rng(rng.getrandbits(32)).standard_normal(canvas.shape, dtype=np.float32)
        canvas = canvas + noise * rng.uniform(1, 8)
    image = Image.fromarray(np.clip(canvas + 0.5, 0, 255).astype(np.uint8))
    return _as_jpeg(image, rng.randint(60, 95)) if rng.random() < 0.12 else image


def _as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


_ARC = 0.5522847498  # control-point distance with which a cubic Bezier curve approximates a quarter circle


def _bezier_circle() -> list[Point]:
    """A unit circle as SVG programs draw it: four cubic curves, flattened."""
    outline: list[Point] = []
    for turn in range(4):
        cos, sin = (1, 0, -1, 0)[turn], (0, 1, 0, -1)[turn]
        control = [(1.0, 0.0), (1.0, _ARC), (_ARC, 1.0), (0.0, 1.0)]
        for step in range(12):
            t = step / 12
            weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
            x = sum(w * c[0] for w, c in zip(weights, control, strict=True))
            y = sum(w * c[1] for w, c in zip(weights, control, strict=True))
            outline.append((x * cos - y * sin, x * sin + y * cos))
    return outline


def draw_coverage(scene: Scene, rng: random.Random) -> Image.Image:
    """Renders by the even-odd rule on a 3 x 3 grid of samples per pixel, circles as Bezier paths. Held
    out.
    """
    samples = 3
    height, width = scene.height * samples, scene.width * samples
    canvas = np.empty((height, width, 3), dtype=np.float32)
    canvas[:] = scene.background
    rows = (np.arange(height) + 0.5) / samples
    columns = (np.arange(width) + 0.5) / samples
    for thing in scene.things:
        unit = list(thing.points) if thing.points is not None else _bezier_circle()
        path = [(thing.centre[0] + x * thing.radius, thing.centre[1] + y * thing.radius) for x, y in unit]
        shrink = 1 - thing.line / thing.radius
        hole = [
            (
                thing.centre[0] + (x - thing.centre[0]) * shrink,
                thing.centre[1] + (y - thing.centre[1]) * shrink,
            )
            for x, y in path
        ]
        outer = _even_odd(rows, columns, path)
        if thing.line:
            inner = _even_odd(rows, columns, hole)
            canvas[outer & ~inner] = thing.line_colour
            outer = inner
        if thing.fill is not None:
            canvas[outer] = thing.fill
    pixels = canvas.reshape(scene.height, samples, scene.width, samples, 3).mean(axis=(1, 3))
    image = Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8))
    return _as_jpeg(image, 90) if rng.random() < 0.1 else image


def _even_odd(rows: np.ndarray, columns: np.ndarray, path: list[Point]) -> np.ndarray:
    """Which samples lie inside `path`: an odd number of edges to their left."""
    inside = np.zeros((len(rows), len(columns)), dtype=bool)
    for i, (ax, ay) in enumerate(path):
        bx, by = path[i - 1]
        if ay == by:
            continue
        crossed = np.nonzero((ay > rows) != (by > rows))[0]
        at = ax + (rows[crossed] - ay) * (bx - ax) / (by - ay)
        inside[crossed] ^= at[:, None] < columns[None, :]
    return inside


Renderer = Callable[[Scene, random.Random], Image.Image]
TRAINING_RENDERERS: tuple[Renderer, ...] = (draw_pil, draw_distance)
HELD_OUT_RENDERER: Renderer = draw_coverage
