"""How far quantized weights are from their source: signal to quantization noise, in decibels."""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class WeightError:
    """The error of one weight.

    Attributes:
        sqnr: 10 log10 of the sum of squares of the source by that of the differences, in dB; infinite without
            any difference.
        worst_channel: the output channel whose own ratio is the smallest.
        worst_sqnr: that ratio in dB.
    """

    sqnr: float
    worst_channel: int
    worst_sqnr: float


def channel_energies(
    weight: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of squares of each output channel: of the source, and of what quantization changed.

    Args:
        weight: the source, ``[out, in]``, any float dtype.
        codes: float8_e4m3fn or float8_e5m2 ``[out, in]``.
        scale: ``[out, 1]``, any float dtype.

    Returns:
        Two float64 ``[out]``. Of a large weight, rows may be given piece by piece and the results
        concatenated.
    """
    source = weight.to(torch.float32)
    noise = codes.to(torch.float32).mul_(scale.to(torch.float32)).sub_(source)
    return _row_energy(source), _row_energy(noise)


def weight_error(weight: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor) -> WeightError:
    """The error of a quantized weight; takes what `channel_energies` takes."""
    return from_energies(*channel_energies(weight, codes, scale))


def from_energies(signal: torch.Tensor, noise: torch.Tensor) -> WeightError:
    """The error of a weight whose `channel_energies` these are."""
    ratios = torch.where(noise > 0, signal / noise, torch.inf)
    worst = int(ratios.argmin())
    return WeightError(
        sqnr=_decibels(float(signal.sum()), float(noise.sum())),
        worst_channel=worst,
        worst_sqnr=_decibels(float(signal[worst]), float(noise[worst])),
    )


def _row_energy(values: torch.Tensor) -> torch.Tensor:
    norm: torch.Tensor = torch.linalg.vector_norm(values, dim=1, dtype=torch.float64)
    return norm.square_()


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
