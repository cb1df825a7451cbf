"""The demo model: Gemma 3 with its SigLIP vision tower, at toy scale, and the forward pass that training
uses.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, PreTrainedTokenizerBase

from tools.demo_checkpoint.draw import COLOURS, SHAPES, Group, Scene
from tools.demo_checkpoint.tokenizer import (
    BOS,
    END_OF_IMAGE,
    END_OF_TURN,
    EOS,
    IMAGE,
    IMAGE_TOKENS,
    PAD,
    START_OF_IMAGE,
    VOCABULARY_SIZE,
)

IMAGE_SIZE = 96
PATCH_SIZE = 12
CONTEXT = 2048
SLIDING_WINDOW = 128


def configuration(tokenizer: PreTrainedTokenizerBase) -> Gemma3Config:
    """About 4 million parameters: 3.1 million in the text layers, which become FP8, 0.7 million in the
    vision tower.
    """
    ids = {token: int(tokenizer.convert_tokens_to_ids(token)) for token in (PAD, EOS, BOS, END_OF_TURN)}
    text = {
        "vocab_size": VOCABULARY_SIZE,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "query_pre_attn_scalar": 64,
        "sliding_window": SLIDING_WINDOW,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "max_position_embeddings": CONTEXT,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            "full_attention": {"rope_type": "default", "rope_theta": 100_000.0},
        },
        "pad_token_id": ids[PAD],
        "eos_token_id": ids[EOS],
        "bos_token_id": ids[BOS],
    }
    vision = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
        "vision_use_head": False,
    }
    return Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=IMAGE_TOKENS,
        boi_token_index=tokenizer.convert_tokens_to_ids(START_OF_IMAGE),
        eoi_token_index=tokenizer.convert_tokens_to_ids(END_OF_IMAGE),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        pad_token_id=ids[PAD],
        bos_token_id=ids[BOS],
        eos_token_id=[ids[EOS], ids[END_OF_TURN]],
        tie_word_embeddings=True,
    )


def pixels_of(image: Image.Image) -> np.ndarray:
    """uint8 [3, 96, 96], resized as Gemma 3's image processor resizes: bilinear, anti-aliased, without
    keeping the aspect ratio.
    """
    small = image.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
    return np.asarray(small).transpose(2, 0, 1)


@dataclass(slots=True)
class Batch:
    """Padded sequences (padding on the right).

    ids, positions int64 [B, L]; targets int64 [B, L] with -100 where no answer is to be learnt; pixels uint8
    [N, 3, 96, 96] of all images in order; groups int64 [N, 6] class indices of `describe_groups`; patches
    int64 [N, 64, 3] class indices of `describe_patches`.
    """

    ids: Tensor
    positions: Tensor
    targets: Tensor
    pixels: Tensor
    groups: Tensor
    patches: Tensor


def describe_groups(groups: tuple[Group, ...]) -> list[int]:
    """Colour, shape and count of the first and of the second group as class indices; class 0: no such
    group.
    """
    classes = []
    for i in range(2):
        if i < len(groups):
            group = groups[i]
            classes += [COLOURS.index(group.colour) + 1, SHAPES.index(group.shape) + 1, group.count]
        else:
            classes += [0, 0, 0]
    return classes


def describe_patches(scene: Scene) -> np.ndarray:
    """int64 [64, 3] for every patch of the resized picture: colour and shape of the object that covers
    its middle (0: none), and whether an object's centre lies in it.
    """
    side = IMAGE_SIZE // PATCH_SIZE
    classes = np.zeros((side, side, 3), dtype=np.int64)
    x = (np.arange(side) + 0.5)[None, :] * scene.width / side
    y = (np.arange(side) + 0.5)[:, None] * scene.height / side
    for thing in scene.things:
        covered = (x - thing.centre[0]) ** 2 + (y - thing.centre[1]) ** 2 < (0.8 * thing.radius) ** 2
        column = min(side - 1, int(thing.centre[0] / scene.width * side))
        row = min(side - 1, int(thing.centre[1] / scene.height * side))
        covered[row, column] = True
        classes[covered, 0] = COLOURS.index(thing.group.colour) + 1
        classes[covered, 1] = SHAPES.index(thing.group.shape) + 1
        classes[row, column, 2] = 1
    return classes.reshape(side * side, 3)


class VisionHeads(nn.Module):
    """Judges what the vision tower sees; only training has it. It teaches the tower what to look for
    long before the text model can ask: from every patch the object that covers it and whether its centre
    is there, from an image's tokens colour, shape and count of both groups.
    """

    GROUP_CLASSES = (len(COLOURS) + 1, len(SHAPES) + 1, 6) * 2
    PATCH_CLASSES = (len(COLOURS) + 1, len(SHAPES) + 1, 2)

    def __init__(self, vision_width: int, text_width: int) -> None:
        super().__init__()
        self.patch = nn.Linear(vision_width, sum(self.PATCH_CLASSES))
        self.hidden = nn.Linear(text_width * IMAGE_TOKENS, 256)
        self.out = nn.Linear(256, sum(self.GROUP_CLASSES))

    def group_loss(self, tokens: Tensor, groups: Tensor) -> Tensor:
        """tokens [N, 16, text width], groups int64 [N, 6] -> the sum of six cross-entropies."""
        hidden = nn.functional.gelu(self.hidden(tokens.flatten(1)))
        parts = self.out(hidden).float().split(self.GROUP_CLASSES, dim=-1)
        return torch.stack(
            [nn.functional.cross_entropy(part, groups[:, i]) for i, part in enumerate(parts)]
        ).sum()

    def patch_loss(self, states: Tensor, patches: Tensor) -> Tensor:
        """states [N, 64, vision width], patches int64 [N, 64, 3] -> the sum of three cross-entropies, in
        which the patches with an object weigh as much as those without.
        """
        logits = self.patch(states).float().flatten(0, 1).split(self.PATCH_CLASSES, dim=-1)
        total = torch.zeros(())
        for i, part in enumerate(logits):
            wanted = patches[..., i].flatten()
            losses, some = nn.functional.cross_entropy(part, wanted, reduction="none"), wanted != 0
            total = total + losses[some].mean() + losses[~some].mean()
        return total


def build(tokenizer: PreTrainedTokenizerBase, seed: int) -> Gemma3ForConditionalGeneration:
    """An untrained model in f32."""
    torch.manual_seed(seed)
    config = configuration(tokenizer)
    config._attn_implementation = "eager"  # on CPU faster than the fused kernel, whose backward pass is slow
    model = Gemma3ForConditionalGeneration(config)
    # Starts at zero in the published code, so that no gradient would reach the vision tower at first.
    width = config.vision_config.hidden_size
    nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=width**-0.5)
    with torch.no_grad():
        model.model.vision_tower.embeddings.position_embedding.weight.copy_(
            grid_embedding(IMAGE_SIZE // PATCH_SIZE, width)
        )
    return model


def grid_embedding(side: int, width: int) -> Tensor:
    """Sines and cosines of row and column, [side * side, width]: a start from which a small vision
    transformer learns sooner what is next to what (Beyer et al., "Better plain ViT baselines for
    ImageNet-1k").
    """
    rate = 100.0 ** -(torch.arange(width // 4) / (width // 4))
    angle = torch.arange(side)[:, None] * rate
    wave = torch.cat([angle.sin(), angle.cos()], dim=1)
    rows, columns = wave[:, None, :].expand(-1, side, -1), wave[None, :, :].expand(side, -1, -1)
    return 0.5 * torch.cat([rows, columns], dim=-1).reshape(side * side, width)


def see(model: Gemma3ForConditionalGeneration, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 [N, 3, 96, 96] -> states of the patches [N, 64, vision width] and image tokens [N, 16, text
    width].
    """
    seen = model.model.get_image_features(pixels.float() / 127.5 - 1.0)
    return seen.last_hidden_state, seen.pooler_output


def masks(is_image: Tensor, starts_image: Tensor, bidirectional: bool) -> dict[str, Tensor]:
    """What to add to attention scores, bf16 [B, 1, L, L], in full and in sliding layers.

    transformers lets the tokens of an image attend to each other in both directions, vLLM on CPU does not:
    training uses both so that the model serves under either.
    """
    length = is_image.shape[1]
    rows, columns = torch.arange(length)[:, None], torch.arange(length)[None, :]
    full = (columns <= rows).expand(is_image.shape[0], length, length)
    sliding = full & (rows - columns < SLIDING_WINDOW)
    if bidirectional:
        number = torch.where(is_image, starts_image.cumsum(1), -1)
        same = (number[:, :, None] == number[:, None, :]) & is_image[:, :, None]
        full, sliding = full | same, sliding | same
    shape = (full.shape[0], 1, length, length)
    return {
        "full_attention": torch.zeros(shape, dtype=torch.bfloat16).masked_fill_(~full[:, None], -1e4),
        "sliding_attention": torch.zeros(shape, dtype=torch.bfloat16).masked_fill_(~sliding[:, None], -1e4),
    }


def answer_logits(
    model: Gemma3ForConditionalGeneration, batch: Batch, tokens: Tensor | None, bidirectional: bool
) -> tuple[Tensor, Tensor]:
    """Logits [A, V] for the A answer tokens of the batch, and those tokens [A]. `tokens` are its image
    tokens.
    """
    language = model.model.language_model
    embeds = language.embed_tokens(batch.ids)
    image_id = model.config.image_token_index
    is_image = batch.ids == image_id
    if tokens is not None:
        embeds = embeds.masked_scatter(is_image[..., None], tokens.to(embeds.dtype))
    starts = is_image & ~nn.functional.pad(is_image, (1, 0))[:, :-1]
    hidden = language(
        inputs_embeds=embeds,
        attention_mask=masks(is_image, starts, bidirectional),
        position_ids=batch.positions,
        use_cache=False,
    ).last_hidden_state
    wanted = batch.targets != -100
    return model.lm_head(hidden[wanted]).float(), batch.targets[wanted]
