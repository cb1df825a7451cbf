import random

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from octet import demo
from tools.demo_checkpoint import model as subject
from tools.demo_checkpoint.batches import PICTURES, SIGHTS, Batches
from tools.demo_checkpoint.draw import Group, Scene, Thing, random_groups, random_scene

TOKENIZER = PreTrainedTokenizerFast.from_pretrained(demo.PATH)


def test_image_tokens_see_each_other_only_in_the_bidirectional_mask() -> None:
    is_image = torch.tensor([[False, True, True, False, True, True]])
    starts = torch.tensor([[False, True, False, False, True, False]])
    causal = subject.masks(is_image, starts, bidirectional=False)["full_attention"][0, 0] == 0
    both = subject.masks(is_image, starts, bidirectional=True)["full_attention"][0, 0] == 0
    assert torch.equal(causal, torch.ones(6, 6, dtype=torch.bool).tril())
    extra = (both & ~causal).nonzero().tolist()
    assert extra == [[1, 2], [4, 5]]


def test_sliding_layers_look_back_one_window() -> None:
    length = subject.SLIDING_WINDOW + 10
    nothing = torch.zeros(1, length, dtype=torch.bool)
    mask = subject.masks(nothing, nothing, bidirectional=True)["sliding_attention"][0, 0] == 0
    assert mask[-1].sum() == subject.SLIDING_WINDOW
    assert not mask[0, 1:].any()


def test_the_patch_of_an_objects_centre_is_marked() -> None:
    group = Group("blue", "star", 1)
    thing = Thing(group, (150.0, 10.0), 9.0, None, (0, 0, 255), 0.0, (0, 0, 0))
    classes = subject.describe_patches(Scene(200, 100, (255, 255, 255), (group,), (thing,))).reshape(8, 8, 3)
    assert classes[0, 6].tolist() == [2, 3, 1]
    assert classes[..., 2].sum() == 1
    assert (classes[2:] == 0).all()


def test_groups_become_classes_with_zero_for_none() -> None:
    assert subject.describe_groups((Group("black", "circle", 2),)) == [1, 1, 2, 0, 0, 0]


def test_the_loss_of_one_batch_falls_when_it_is_repeated() -> None:
    model = subject.build(TOKENIZER, seed=0)
    batch = next(iter(Batches(TOKENIZER, "copy", 0, 0)))[0]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(8):
        logits, targets = subject.answer_logits(model, batch, None, bidirectional=True)
        loss = torch.nn.functional.cross_entropy(logits, targets)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.8 * losses[0]


def test_a_joint_step_holds_what_it_promises() -> None:
    batches = next(iter(Batches(TOKENIZER, "joint", 0, 0)))
    sequences = sum(len(batch.ids) for batch in batches if batch.ids.ndim == 2 and len(batch.pixels))
    assert sequences == PICTURES
    assert len(batches[-1].pixels) == SIGHTS
    image = TOKENIZER.convert_tokens_to_ids("<image_soft_token>")
    for batch in batches[:2]:
        assert (batch.ids == image).sum() == 16 * len(batch.pixels)
        assert len(batch.groups) == len(batch.patches) == len(batch.pixels)
        assert (batch.positions < subject.CONTEXT).all()


def test_training_and_serving_agree_on_the_logits_of_a_picture() -> None:
    model = subject.build(TOKENIZER, seed=0).eval()
    rng = random.Random(1)
    scene = random_scene(rng, random_groups(rng))
    pixels = torch.randint(0, 255, (1, 3, 96, 96), dtype=torch.uint8)
    text = (
        "<start_of_turn>user\n\n\n<start_of_image>"
        + "<image_soft_token>" * 16
        + "<end_of_image>\n\nWhat is this?"
    )
    ids = torch.tensor([TOKENIZER.encode(text)])
    batch = subject.Batch(
        ids,
        torch.arange(ids.shape[1])[None],
        ids,
        pixels,
        torch.tensor([subject.describe_groups(scene.groups)]),
        torch.zeros(1, 64, 3, dtype=torch.int64),
    )
    with torch.inference_mode():
        ours, _ = subject.answer_logits(model, batch, subject.see(model, pixels)[1], bidirectional=True)
        theirs = model(
            input_ids=ids,
            pixel_values=pixels.float() / 127.5 - 1,
            token_type_ids=(ids == model.config.image_token_index).long(),
        ).logits[0]
    assert ours == pytest.approx(theirs, abs=1e-4)
