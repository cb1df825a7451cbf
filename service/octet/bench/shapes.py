"""The shapes that the kernels are measured on: those of Gemma 3, and how many rows a step has."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinearShape:
    """A linear layer.

    Attributes:
        name: model and layer, such as "12b/down".
        in_features: K.
        out_features: N.
    """

    name: str
    in_features: int
    out_features: int


def _layers(
    model: str, hidden: int, feed_forward: int, heads: int, kv_heads: int, head_dim: int
) -> list[LinearShape]:
    """The linear layers of a decoder layer, as vLLM merges them."""
    return [
        LinearShape(f"{model}/qkv", hidden, (heads + 2 * kv_heads) * head_dim),
        LinearShape(f"{model}/o", heads * head_dim, hidden),
        LinearShape(f"{model}/gate_up", hidden, 2 * feed_forward),
        LinearShape(f"{model}/down", feed_forward, hidden),
        # One of the two matrices in gate_up: the shape that products are usually compared on.
        LinearShape(f"{model}/up", hidden, feed_forward),
    ]


LINEAR = {
    shape.name: shape
    for shape in (
        *_layers("1b", 1152, 6912, heads=4, kv_heads=1, head_dim=256),
        *_layers("4b", 2560, 10240, heads=8, kv_heads=4, head_dim=256),
        *_layers("12b", 3840, 15360, heads=16, kv_heads=8, head_dim=256),
        LinearShape("1b/vocabulary", 1152, 262144),
    )
}
LINEAR_ROWS = (1, 2, 4, 8, 16, 32, 64, 256, 512, 2048)

WIDTHS = {str(width): width for width in (3840, 5120, 15360)}
WIDTH_ROWS = (1, 16, 64, 256, 4096)

QUICK_LINEAR = ("1b/down", "12b/up")
QUICK_LINEAR_ROWS = (1, 8, 64, 512)
QUICK_WIDTHS = ("3840",)
QUICK_WIDTH_ROWS = (1, 64, 4096)
