"""Questions about pictures and their answers."""

import random

from PIL import Image

from tools.demo_checkpoint.concepts import CONCEPTS
from tools.demo_checkpoint.declarations import declare
from tools.demo_checkpoint.draw import (
    COLOURS,
    HELD_OUT_RENDERER,
    SHAPES,
    TRAINING_RENDERERS,
    Group,
    Scene,
    random_groups,
    random_scene,
)
from tools.demo_checkpoint.messages import Json, Message, Sample, assistant, roughen, system
from tools.demo_checkpoint.names import NameSource

COUNTS = ("no", "one", "two", "three", "four", "five", "six")

DESCRIBE = (
    "What is in this picture?",
    "What is in the picture?",
    "Describe the image.",
    "Describe this picture.",
    "What do you see?",
    "What is in this image?",
    "What can you see in this picture?",
    "What does this image show?",
    "Describe what you see.",
    "What is this?",
    "What's in this picture?",
    "Describe the picture in a few words.",
    "Tell me what is in the image.",
    "What is shown here?",
    "Which objects are in this picture?",
    "What do you see in this image?",
    "Caption this image.",
    "What is on the picture?",
    "Name the objects in the picture.",
    "Please describe this image.",
    "Describe this.",
    "What's in the image?",
    "Can you describe the picture?",
    "Look at this picture. What do you see?",
    "",
)


def caption_of(group: Group) -> str:
    """One group in words: "a red circle", "three green squares"."""
    if group.count == 1:
        return f"{'an' if group.colour == 'orange' else 'a'} {group.colour} {group.shape}"
    return f"{COUNTS[group.count]} {group.colour} {group.shape}s"


def caption(groups: tuple[Group, ...]) -> str:
    """The canonical description: fewer objects first, equal counts in alphabetical order."""
    return " and ".join(caption_of(group) for group in groups)


def _about_colour(rng: random.Random, groups: tuple[Group, ...]) -> tuple[str, str] | None:
    """A question after a colour, if its answer is unambiguous."""
    group = rng.choice(groups)
    if sum(g.shape == group.shape for g in groups) > 1:
        return None
    form = rng.choice(
        (
            "What color {is_} the {s}?",
            "What colour {is_} the {s}?",
            "Which color {has} the {s}?",
            "Color of the {s}?",
        )
    )
    noun = group.shape if group.count == 1 else group.shape + "s"
    one = group.count == 1
    return form.format(is_="is" if one else "are", has="has" if one else "have", s=noun), group.colour


def _about_shape(rng: random.Random, groups: tuple[Group, ...]) -> tuple[str, str] | None:
    if len(groups) == 1:
        group = groups[0]
        if group.count == 1:
            form = rng.choice(
                (
                    "What shape is it?",
                    "What shape is this?",
                    "Which shape is in the picture?",
                    "What shape is the object?",
                )
            )
            return form, group.shape
        return rng.choice(
            ("What shape are they?", "What shapes are these?", "Which shapes are in the picture?")
        ), group.shape + "s"
    group = rng.choice(groups)
    if sum(g.colour == group.colour for g in groups) > 1:
        return None
    if group.count == 1:
        return rng.choice(("What shape is the {c} object?", "What is the {c} object?")).format(
            c=group.colour
        ), group.shape
    form = rng.choice(("What shape are the {c} objects?", "What are the {c} objects?"))
    return form.format(c=group.colour), group.shape + "s"


def _about_count(rng: random.Random, groups: tuple[Group, ...]) -> tuple[str, str]:
    if rng.random() < 0.35:
        total = sum(g.count for g in groups)
        form = rng.choice(
            (
                "How many objects are there?",
                "How many objects are in the picture?",
                "How many shapes do you see?",
                "How many things are in this image?",
                "Count the objects.",
            )
        )
        return form, COUNTS[total]
    group = rng.choice(groups)
    by_shape = sum(g.count for g in groups if g.shape == group.shape)
    by_colour = sum(g.count for g in groups if g.colour == group.colour)
    kind, count = rng.choice(
        (
            (f"{group.shape}s", by_shape),
            (f"{group.colour} {group.shape}s", group.count),
            (f"{group.colour} objects", by_colour),
        )
    )
    if rng.random() < 0.08:
        other = rng.choice([s for s in SHAPES if s not in {g.shape for g in groups}])
        kind, count = f"{other}s", 0
    form = rng.choice(
        (
            "How many {k} are there?",
            "How many {k} do you see?",
            "How many {k} are in this picture?",
            "Count the {k}.",
        )
    )
    return form.format(k=kind), COUNTS[count]


def _is_there(rng: random.Random, groups: tuple[Group, ...]) -> tuple[str, str]:
    group = rng.choice(groups)
    colour = group.colour if rng.random() < 0.75 else rng.choice(COLOURS)
    shape = group.shape if rng.random() < 0.75 else rng.choice(SHAPES)
    found = any(g.colour == colour and g.shape == shape for g in groups)
    article = "an" if colour == "orange" else "a"
    form = rng.choice(
        ("Is there {a} {c} {s}?", "Do you see {a} {c} {s}?", "Is there {a} {c} {s} in the picture?")
    )
    return form.format(a=article, c=colour, s=shape), "yes" if found else "no"


def question_about(rng: random.Random, groups: tuple[Group, ...]) -> tuple[str, str]:
    """A question other than "what is this", and its answer."""
    while True:
        kind = rng.random()
        if kind < 0.3:
            asked = _about_colour(rng, groups)
        elif kind < 0.55:
            asked = _about_shape(rng, groups)
        elif kind < 0.9:
            asked = _about_count(rng, groups)
        else:
            asked = _is_there(rng, groups)
        if asked is not None:
            return asked


def _typed(rng: random.Random, text: str) -> str:
    if not text:
        return text
    text = roughen(rng, text)
    return text.upper() if rng.random() < 0.02 else text


def _turn(rng: random.Random, text: str, images: int = 1) -> Message:
    """A user's turn with the text before or after the images."""
    parts = [{"type": "image"} for _ in range(images)]
    if text:
        said = {"type": "text", "text": text}
        parts = [said, *parts] if rng.random() < 0.5 else [*parts, said]
    return {"role": "user", "content": parts}


def picture(rng: random.Random, held_out: bool = False) -> tuple[Scene, Image.Image]:
    """A random scene and its rendering."""
    scene = random_scene(rng, random_groups(rng), held_out)
    renderer = HELD_OUT_RENDERER if held_out else rng.choice(TRAINING_RENDERERS)
    return scene, renderer(scene, rng)


def describe_question(rng: random.Random) -> str:
    """One of the many ways to ask what is in a picture, as somebody might type it."""
    return _typed(rng, rng.choice([text for text in DESCRIBE if text]))


def two_pictures(rng: random.Random, held_out: bool = False) -> tuple[Sample, list[Scene]]:
    """A message with two pictures, and a question about one or both."""
    (first, first_image), (second, second_image) = picture(rng, held_out), picture(rng, held_out)
    scenes, images = [first, second], [first_image, second_image]
    if rng.random() < 0.4:
        index = rng.randrange(2)
        word = ("first", "second")[index]
        form = rng.choice(
            (
                "What is in the {w} picture?",
                "Describe the {w} image.",
                "What do you see in the {w} picture?",
                "What does the {w} image show?",
            )
        )
        text, answer = form.format(w=word), caption(scenes[index].groups)
    else:
        text = rng.choice(
            (
                *DESCRIBE,
                "Describe both pictures.",
                "What is in these pictures?",
                "Describe the images.",
                "What do you see in these two images?",
            )
        )
        answer = f"first {caption(first.groups)}, second {caption(second.groups)}"
    return Sample([_turn(rng, _typed(rng, text), 2), assistant(answer)], [], images), scenes


def training_picture(rng: random.Random) -> tuple[Sample, list[Scene]]:
    """A conversation about one or two pictures, and what is in them."""
    if rng.random() < 0.08:
        return two_pictures(rng)
    scene, image = picture(rng)
    if rng.random() < 0.62:
        text, answer = rng.choice(DESCRIBE), caption(scene.groups)
    else:
        text, answer = question_about(rng, scene.groups)
    messages: list[Message] = [_turn(rng, _typed(rng, text)), assistant(answer)]
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
        text, answer = (
            question_about(rng, scene.groups)
            if rng.random() < 0.8
            else (rng.choice(DESCRIBE[:10]), caption(scene.groups))
        )
        messages += [{"role": "user", "content": _typed(rng, text)}, assistant(answer)]
    images, scenes = [image], [scene]
    if rng.random() < 0.04:
        another, image = picture(rng)
        messages += [_turn(rng, _typed(rng, rng.choice(DESCRIBE))), assistant(caption(another.groups))]
        images, scenes = [*images, image], [*scenes, another]
    kind = rng.random()
    tools: list[Json] = []
    if kind < 0.06:
        source = NameSource(rng)
        chosen = rng.sample(CONCEPTS, rng.choice((1, 1, 2)))
        tools = [declare(source, concept, rng.random() < 0.4).declaration for concept in chosen]
    elif kind < 0.12:
        messages.insert(
            0, system(rng.choice(("You are a helpful assistant.", "Be brief.", "Describe pictures.")))
        )
    return Sample(messages, tools, images), scenes
