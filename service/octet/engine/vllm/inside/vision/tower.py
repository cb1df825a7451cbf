"""A SigLIP tower that can be run a slice at a time, in the precision that multiplies fastest on this CPU."""

from typing import Any

import torch
from torch.nn import functional

from octet.engine.vllm.inside.vision.shape import TowerShape, Unit
from octet.engine.vllm.kernels import multiplies_narrow


class WideProduct:
    """Multiplies by a bf16 or f16 weight in f32, where the CPU has no instructions for less.

    It takes the place of a linear layer's `quant_method` and leaves bias, ranks and reduction to the layer.
    Widening costs a hundredth of the products of a layer, and the widened weights of a whole tower would take
    twice its memory, so they are kept for the layer at work only.
    """

    def __init__(self, kept: int) -> None:
        """`kept` is how many linear layers work in turns: those of one layer of the tower."""
        self._kept = kept
        self._wide: dict[int, torch.Tensor] = {}

    def apply(self, layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """x [..., K] times the layer's weight [N, K], plus bias [N]: [..., N] in the dtype of x."""
        wide = self._wide.get(id(layer))
        if wide is None:
            if len(self._wide) == self._kept:
                self._wide.clear()
            wide = self._wide[id(layer)] = layer.weight.float()
        return functional.linear(x.float(), wide, None if bias is None else bias.float()).to(x.dtype)


class SlicedTower:
    """The vision tower and the projector of a Gemma 3 model of vLLM's."""

    def __init__(self, model: Any) -> None:
        """`model` is vLLM's Gemma3ForConditionalGeneration, its weights loaded.

        Where the CPU cannot multiply in the weights' dtype, their layers are made to multiply in f32.
        """
        self._vision, self._projector = model.vision_tower.vision_model, model.multi_modal_projector
        self.shape = TowerShape.of(model.config.vision_config)
        self.layers = self._vision.encoder.layers
        attention = self.layers[0].self_attn
        self.heads, self.head_dim = attention.num_heads_per_partition, attention.head_dim
        self.dtype: torch.dtype = self._vision.dtype
        if self.dtype != torch.float32 and not multiplies_narrow() and self._widen():
            self.dtype = torch.float32

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        """The patches [P, hidden] of a crop [channels, height, width], with their positions."""
        embeddings = self._vision.embeddings
        convolution, size = embeddings.patch_embedding, embeddings.patch_size
        channels, height, width = pixels.shape
        grid = pixels.to(convolution.weight.dtype).view(channels, height // size, size, width // size, size)
        patches = grid.permute(1, 3, 0, 2, 4).reshape(self.shape.patches, -1)
        weight = convolution.weight.float().flatten(1)
        hidden = functional.linear(patches.float(), weight, convolution.bias.float())
        placed: torch.Tensor = hidden + embeddings.position_embedding.weight
        return placed.to(self.dtype)

    def project(self, hidden: torch.Tensor) -> torch.Tensor:
        """What the language model reads of a crop [P, hidden]: [tokens, text width] in the model's dtype."""
        normed = _normed(self._vision.post_layernorm, hidden)
        weight = self._projector.mm_input_projection_weight.to(self.dtype)
        projected: torch.Tensor = torch.func.functional_call(
            self._projector, {"mm_input_projection_weight": weight}, (normed[None],)
        )[0]
        return projected.to(self._vision.dtype)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """A picture's crops [C, channels, height, width] at once: [C, tokens, text width]."""
        encoding = Encoding(self, pixels)
        encoding.advance(pixels.shape[0] * self.shape.units_of_crop)
        return torch.stack(encoding.projected)

    def _widen(self) -> bool:
        """Makes the tower's linear layers multiply in f32; False where one of them is quantized or packed."""
        from vllm.model_executor.layers.linear import UnquantizedLinearMethod

        linear = [
            part
            for layer in self.layers
            for part in (layer.self_attn.qkv_proj, layer.self_attn.out_proj, layer.mlp.fc1, layer.mlp.fc2)
        ]
        for part in linear:
            method = getattr(part, "quant_method", None)
            if not isinstance(method, UnquantizedLinearMethod) or not part.weight.numel():
                return False
        product = WideProduct(kept=len(linear) // len(self.layers))
        for part in linear:
            part.quant_method = product
        return True


class Encoding:
    """A picture on its way through the tower.

    Its state is the patches of the crop at work and, for the layer at work, their queries, keys and values:
    80 MB for a crop of 4,096 patches in f32.

    Attributes:
        projected: what the language model reads of the crops that are finished, [tokens, text width] each.
    """

    def __init__(self, tower: SlicedTower, pixels: torch.Tensor) -> None:
        """`pixels` is [C, channels, height, width], a crop each."""
        self.projected: list[torch.Tensor] = []
        self._tower, self._pixels = tower, pixels
        self._position = 0
        shape = (3, tower.heads, tower.shape.patches, tower.head_dim)
        self._qkv = torch.empty(shape, dtype=tower.dtype)
        self._hidden = torch.empty(0)

    def advance(self, stop: int) -> None:
        """Does the units of work up to `stop`."""
        for index in range(self._position, stop):
            self._do(self._tower.shape.unit(index))
        self._position = stop

    def _do(self, unit: Unit) -> None:
        if unit.begins_crop:
            self._hidden = self._tower.embed(self._pixels[unit.crop])
        layer, rows = self._tower.layers[unit.layer], self._hidden[unit.rows]
        if unit.attends:
            self._attend(layer, rows, unit.rows)
            self._feed_forward(layer, rows)
        else:
            self._project_to_heads(layer, rows, unit.rows)
        if unit.ends_crop:
            self.projected.append(self._tower.project(self._hidden))

    def _project_to_heads(self, layer: Any, hidden: torch.Tensor, rows: slice) -> None:
        tower = self._tower
        projected, _ = layer.self_attn.qkv_proj(_normed(layer.layer_norm1, hidden))
        heads = projected.view(len(hidden), 3, tower.heads, tower.head_dim)
        self._qkv[:, :, rows] = heads.permute(1, 2, 0, 3)

    def _attend(self, layer: Any, hidden: torch.Tensor, rows: slice) -> None:
        """Adds to the patches `hidden`, in place, what they read of all patches of the crop."""
        query, key, value = self._qkv[:, None]
        read = functional.scaled_dot_product_attention(
            query[:, :, rows], key, value, scale=layer.self_attn.scale
        )
        joined = read[0].transpose(0, 1).reshape(len(hidden), -1)
        hidden += layer.self_attn.out_proj(joined)[0]

    def _feed_forward(self, layer: Any, hidden: torch.Tensor) -> None:
        """Adds to the patches `hidden`, in place, what the feed-forward network makes of them."""
        inner, _ = layer.mlp.fc1(_normed(layer.layer_norm2, hidden))
        hidden += layer.mlp.fc2(layer.mlp.activation_fn(inner))[0]


def _normed(norm: Any, x: torch.Tensor) -> torch.Tensor:
    weight, bias = norm.weight.to(x.dtype), norm.bias.to(x.dtype)
    return functional.layer_norm(x, norm.normalized_shape, weight, bias, norm.eps)
