"""The kernel of bf16_linear for AVX-512, on a model of its instructions: on every machine."""

import pytest
import torch

from octet import ops
from tests.kernels import test_bf16_linear as real
from tests.kernels.x86.model import Linear, Model


@pytest.fixture
def linear(model: Model) -> Linear:
    return model.bf16_linear()


def test_row_counts(linear: Linear) -> None:
    for rows in (*range(1, 10), 16, 17, 33):
        real.check(*real.random_operands(rows, 70, 21), real.normal(21, seed=2), linear=linear)


@pytest.mark.parametrize("k", [1, 15, 16, 31, 32, 33, 63, 65, 767, 769, 1537])
def test_inner_sizes(linear: Linear, k: int) -> None:
    for rows in (1, 7, 10):
        real.check(*real.random_operands(rows, k, 7), linear=linear)
        real.check_small_integers(rows, k, 7, linear=linear)


@pytest.mark.parametrize("n", [1, 5, 6, 7, 12, 13, 515])
def test_output_sizes(linear: Linear, n: int) -> None:
    for rows in (1, 6, 11):
        real.check(*real.random_operands(rows, 70, n), linear=linear)


def test_how_outputs_are_cut_into_tiles_changes_nothing(model: Model) -> None:
    operands = real.random_operands(20, 900, 600)
    whole = model.bf16_linear()(*operands)
    for tile in ((3, 16), (0, 400)):
        assert torch.equal(model.bf16_linear(tile)(*operands), whole)
    real.check_independent_rows(900, linear=model.bf16_linear())


def test_values(linear: Linear) -> None:
    real.check_every_value(2, range(3, 33, 29), linear=linear)
    real.check_nan_and_infinity(12, linear=linear)
    real.check_no_inner_dimension(3, linear=linear)


def test_the_model_computes_what_the_machine_does(linear: Linear) -> None:
    if "avx512" not in ops.available_isas():
        pytest.skip("this machine has no avx512")
    before = ops.isa()
    ops.use_isa("avx512")
    for rows in (1, 5, 9):
        operands = real.random_operands(rows, 1500, 77)
        ours = linear(*operands, None, torch.float32)
        assert torch.equal(ours, ops.bf16_linear(*operands, None, torch.float32))
    ops.use_isa(before)
