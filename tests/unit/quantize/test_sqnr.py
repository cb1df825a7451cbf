import math

import pytest
import torch

from octet.ops import reference
from octet.quantize.sqnr import channel_energies, from_energies, weight_error


@pytest.mark.parametrize(("fp8", "low", "high"), [(torch.float8_e4m3fn, 30, 33), (torch.float8_e5m2, 24, 27)])
def test_a_normal_weight_has_the_format_s_ratio(fp8: torch.dtype, low: float, high: float) -> None:
    # Rounding a mantissa of b bits leaves about 6.02 b + 13.5 dB.
    weight = torch.randn((64, 512), generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    error = weight_error(weight, *reference.per_channel_quant_fp8(weight, fp8))
    assert low < error.sqnr < high
    assert low - 2 < error.worst_sqnr <= error.sqnr


def test_finds_the_worst_channel_and_its_ratio() -> None:
    weight = torch.ones((3, 4))
    codes = weight.to(torch.float8_e4m3fn)
    scale = torch.tensor([[1.0], [1.1], [1.01]])
    error = weight_error(weight, codes, scale)
    assert error.worst_channel == 1
    assert error.worst_sqnr == pytest.approx(20, abs=1e-4)
    assert error.sqnr == pytest.approx(10 * math.log10(12 / (4 * 0.01 + 4 * 0.0001)), abs=1e-4)


def test_without_any_difference_the_ratio_is_infinite() -> None:
    weight = torch.zeros((2, 3))
    error = weight_error(weight, weight.to(torch.float8_e5m2), torch.ones((2, 1)))
    assert (error.sqnr, error.worst_sqnr) == (math.inf, math.inf)


def test_noise_without_signal_is_minus_infinity() -> None:
    error = weight_error(torch.zeros((1, 2)), torch.ones((1, 2)).to(torch.float8_e5m2), torch.ones((1, 1)))
    assert error.sqnr == -math.inf


def test_pieces_add_up() -> None:
    weight = torch.randn((10, 33), generator=torch.Generator().manual_seed(1))
    codes, scale = reference.per_channel_quant_fp8(weight)
    pieces = [
        channel_energies(weight[i : i + 3], codes[i : i + 3], scale[i : i + 3]) for i in range(0, 10, 3)
    ]
    total = from_energies(torch.cat([p[0] for p in pieces]), torch.cat([p[1] for p in pieces]))
    assert total == weight_error(weight, codes, scale)
