"""The kernels of fp8_linear for AVX-512 and AMX, on a model of their instructions: on every machine."""

import pytest
import torch

from octet import ops
from tests.kernels import test_fp8_linear as real
from tests.kernels.x86.model import ISAS, Fault, Linear, Model

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


@pytest.fixture(params=ISAS)
def linear(request: pytest.FixtureRequest, model: Model) -> Linear:
    return model.linear(request.param)


@real.pairs
def test_row_counts(linear: Linear, x_format: torch.dtype, w_format: torch.dtype) -> None:
    for rows in (*range(1, 10), 16, 17, 33, 49, 130):
        real.check(*real.random_operands(rows, 70, 21, x_format, w_format), linear=linear)


@pytest.mark.parametrize("k", [1, 31, 32, 33, 64, 65, 129, 513, 577, 1025, 2049])
def test_inner_sizes(linear: Linear, k: int) -> None:
    for rows in (1, 6, 34):
        real.check(*real.random_operands(rows, k, 5, E4M3, E5M2), linear=linear)
        real.check_small_integers(rows, k, 5, E5M2, E4M3, linear=linear)


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 23, 25, 31, 32, 33, 48, 49, 63, 65, 97])
def test_output_sizes(linear: Linear, n: int) -> None:
    for rows in (1, 7, 11, 40):
        real.check(*real.random_operands(rows, 70, n, E4M3, E4M3), linear=linear)


@pytest.mark.parametrize("isa", ISAS)
def test_how_outputs_are_cut_into_tiles_changes_nothing(model: Model, isa: str) -> None:
    # More rows, columns and k than a kernel takes at a time.
    for shape, tiles in (((134, 600, 40), ((32, 0), (48, 16))), ((20, 70, 1100), ((0, 400), (0, 16)))):
        operands = real.random_operands(*shape, E4M3, E4M3)
        whole = model.linear(isa)(*operands)
        for tile in tiles:
            assert torch.equal(model.linear(isa, tile)(*operands), whole)
        real.check_small_integers(*shape, E4M3, E5M2, linear=model.linear(isa))


@real.pairs
@pytest.mark.parametrize("rows", [1, 8, 30])
def test_every_code_decodes(linear: Linear, x_format: torch.dtype, w_format: torch.dtype, rows: int) -> None:
    real.check_every_code(rows, x_format, w_format, linear=linear)


@pytest.mark.parametrize("rows", [1, 12, 40])
def test_nan_and_infinity_stay_in_their_row_and_column(linear: Linear, rows: int) -> None:
    real.check_nan_and_infinity(rows, linear=linear)


@pytest.mark.parametrize("rows", [2, 20])
def test_no_inner_dimension_leaves_the_bias(linear: Linear, rows: int) -> None:
    bias = torch.arange(5.0)
    operands = real.random_operands(rows, 0, 5, E4M3, E4M3)
    assert torch.equal(linear(*operands, bias, torch.float32), bias.expand(rows, 5))


@pytest.mark.parametrize("rows", [3, 37])
def test_bias_and_strides(linear: Linear, rows: int) -> None:
    xq, x_scale, w, w_scale = real.random_operands(rows, 90, 33, E4M3, E5M2)
    bias = torch.randn(33, generator=torch.Generator().manual_seed(1))
    real.check(xq, x_scale, w, w_scale, bias, linear=linear)
    # What lies between the rows must not be read into them: NaN codes.
    wide = torch.full((rows, 130), 0x7F, dtype=torch.uint8).view(E4M3)
    wide[:, 7:97] = xq
    strided = linear(wide[:, 7:97], x_scale, w, w_scale, bias)
    assert torch.equal(strided, linear(xq, x_scale, w, w_scale, bias))


@pytest.mark.parametrize("isa", ISAS)
def test_the_model_computes_what_the_machine_does(model: Model, isa: str) -> None:
    if isa not in ops.available_isas():
        pytest.skip(f"this machine has no {isa}")
    before = ops.isa()
    ops.use_isa(isa)
    for rows in (1, 5, 9, 40, 200):
        operands = real.random_operands(rows, 1500, 77, E4M3, E4M3)
        ours = model.linear(isa)(*operands, None, torch.float32)
        assert torch.equal(ours, ops.fp8_linear(*operands, None, torch.float32))
    ops.use_isa(before)


def test_tiles_multiply_many_rows_only(model: Model) -> None:
    for rows, many in ((8, False), (9, True), (40, True)):
        before = model.tile_products()
        model.linear("amx_bf16")(*real.random_operands(rows, 100, 40, E4M3, E4M3))
        assert (model.tile_products() > before) is many


@pytest.mark.parametrize("isa", ISAS)
def test_the_check_at_load_finds_nothing(model: Model, isa: str) -> None:
    assert model.agrees(isa)


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.NONE])
def test_the_check_at_load_finds_faulty_tiles(model: Model, fault: Fault) -> None:
    assert not model.agrees("amx_bf16", fault)


@pytest.mark.parametrize("misuse", ["unconfigured_tiles", "wrong_shapes"])
def test_the_model_refuses_what_the_processor_does(model: Model, misuse: str) -> None:
    assert model.refuses(misuse)
