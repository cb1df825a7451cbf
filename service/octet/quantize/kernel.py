"""The kernel that quantizes weights. It takes plain memory: importing torch would take longer than the work.

It is chosen as those of :mod:`octet.ops` are: the fastest that runs here, or what ``OCTET_ISA`` names.
"""

from typing import TYPE_CHECKING

from octet.quantize.errors import QuantizeError

if TYPE_CHECKING:
    from typing_extensions import Buffer

try:
    from octet import _C_weights as extension

    extension.isa()
except ImportError as error:
    raise QuantizeError(
        f"octet's compiled extension cannot be loaded ({error}); "
        "it is built by `pip install .` in a checkout of octet"
    ) from error
except ValueError as error:
    raise QuantizeError(str(error)) from error


def per_channel_quant_fp8(
    w: "Buffer", dtype: str, shape: tuple[int, int], fp8: str, codes: "Buffer", scales: "Buffer"
) -> int | None:
    """Quantizes each output channel of a weight to FP8 with its own scale: symmetric round-to-nearest.

    The numbers are those of compressed-tensors 0.19 (``FP8_DYNAMIC``). For a row of largest magnitude ``m``
    the scale is ``m / FMAX`` rounded to the dtype of ``w``, or that dtype's epsilon where this is 0; a code
    is ``w / scale`` rounded to the dtype of ``w``, clamped to the finite range and rounded to nearest, ties
    to even; a quotient of -0 becomes +0. A row that holds NaN or an infinity has NaN or an infinity as its
    scale, and NaN codes. Computes on the calling thread, without the interpreter's lock.

    Args:
        w: ``[out_features, in_features]``, contiguous.
        dtype: of its elements, as safetensors names it: F32, F16 or BF16.
        shape: ``(out_features, in_features)``.
        fp8: F8_E4M3 (FMAX = 448) or F8_E5M2 (FMAX = 57344).
        codes: receives ``[out_features, in_features]``, one byte each.
        scales: receives ``[out_features]`` of the dtype of ``w``.

    Returns:
        The first row whose scale is not finite; None when there is none.

    Raises:
        ValueError: a name is none of the above, or a buffer's length or alignment does not fit.
    """
    return extension.per_channel_quant_fp8(w, dtype, *shape, fp8, codes, scales)
