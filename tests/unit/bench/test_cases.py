"""What is compared computes the same: otherwise a ratio of times would say nothing."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from octet.bench import cases, roofs, shapes
from octet.bench.shapes import LinearShape
from octet.engine.vllm import compat

ROWS, WIDTH = 3, 96


def decoded(result: object) -> torch.Tensor:
    """The values of codes and scales, which may come with a residual, or of a tensor."""
    if isinstance(result, torch.Tensor):
        return result.float()
    codes, scale, *_ = result  # type: ignore[misc]
    value: torch.Tensor = codes.float() * scale
    return value


@pytest.mark.parametrize("make_case", [make for forms in cases.ROW_KERNELS.values() for make in forms])
def test_the_eager_form_agrees_with_the_kernel(make_case: Callable[[int, int, str], cases.Case]) -> None:
    case = make_case(ROWS, WIDTH, "cpu")
    ours, theirs = decoded(case.functions["octet"]()), decoded(case.functions["eager"]())
    assert ours.shape == (ROWS, WIDTH)
    # A code may be off by one: 2^-3 of a value, or the smallest step.
    torch.testing.assert_close(ours, theirs, rtol=2**-3, atol=float(theirs.abs().max()) * 2**-9)
    assert (ours == theirs).float().mean() > 0.9
    if "apart" in case.functions:
        torch.testing.assert_close(decoded(case.functions["apart"]()), ours, rtol=2**-3, atol=0.1)


@pytest.mark.parametrize("make_case", [make for forms in cases.ROW_KERNELS.values() for make in forms])
def test_calls_leave_their_inputs_as_they_were(make_case: Callable[[int, int, str], cases.Case]) -> None:
    """Thousands of calls follow one another: a sum that grows would overflow."""
    case = make_case(ROWS, WIDTH, "cpu")
    first = decoded(case.functions["octet"]())
    for name in case.functions:
        case.functions[name]()
    assert torch.equal(decoded(case.functions["octet"]()), first)


def test_a_copy_moves_as_many_bytes() -> None:
    case = cases.per_token_quant(ROWS, WIDTH, "cpu")
    assert case.bytes_moved == ROWS * (WIDTH * (2 + 1) + 4)
    copied = case.functions["copy"]()
    assert isinstance(copied, torch.Tensor)
    assert 2 * copied.nbytes == case.bytes_moved


def test_the_linear_layers_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("octet.bench.machine.l3_bytes", lambda: 4096)
    operands = cases.LinearOperands(LinearShape("test", 64, 48), lambda _: None)
    assert len(operands.codes) * 64 * 48 >= 2 * 4096, "the weights overflow the cache"
    assert operands.codes[0].data_ptr() != operands.codes[1].data_ptr()
    case = operands.case(ROWS, with_stock=True)
    assert "vllm" not in case.functions
    ours, theirs = case.functions["octet"](), case.functions["stock"]()
    assert isinstance(ours, torch.Tensor)
    assert isinstance(theirs, torch.Tensor)
    assert case.flops == 2 * ROWS * 64 * 48
    torch.testing.assert_close(ours, theirs, rtol=2**-7, atol=float(theirs.abs().max()) * 2**-8)


def test_the_bf16_layers_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("octet.bench.machine.l3_bytes", lambda: 4096)
    operands = cases.LinearOperands(LinearShape("test", 64, 48), lambda weight: lambda x: F.linear(x, weight))
    assert sum(weight.nbytes for weight in operands.half) >= 2 * 4096, "the weights overflow the cache"
    case = operands.bf16_case(ROWS)
    ours, *others = (case.functions[name]() for name in ("octet", "bf16", "vllm"))
    assert isinstance(ours, torch.Tensor)
    assert case.flops == 2 * ROWS * 64 * 48
    assert case.bytes_moved == 2 * (64 * 48 + ROWS * 64) + ours.nbytes
    for theirs in others:
        assert isinstance(theirs, torch.Tensor)
        torch.testing.assert_close(ours, theirs, rtol=2**-7, atol=float(theirs.abs().max()) * 2**-8)


def test_the_product_of_vllm_is_that_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("octet.bench.machine.l3_bytes", lambda: 4096)
    names = []

    def of_vllm(weight: torch.Tensor) -> cases.Product:
        name, product = compat.kernels.unquantized_linear(weight)
        names.append(name)
        return product

    operands = cases.LinearOperands(LinearShape("test", 64, 48), of_vllm)
    assert len(names) == len(operands.half), "every copy is prepared by itself"
    assert len(set(names)) == 1
    case = operands.case(ROWS, with_stock=False)
    ours, theirs = case.functions["vllm"](), case.functions["bf16"]()
    assert isinstance(ours, torch.Tensor)
    assert isinstance(theirs, torch.Tensor)
    torch.testing.assert_close(ours, theirs, rtol=2**-7, atol=float(theirs.abs().max()) * 2**-8)


@pytest.mark.parametrize("words", [8, 24, 64, 1000, 1 << 17])
def test_a_read_reads_all_of_the_weights(words: int) -> None:
    memory = torch.randint(0, 1 << 60, (words,), generator=torch.Generator().manual_seed(words))
    assert roofs.read(memory) == sum(memory.tolist()) % 2**64


def test_weights_hold_no_nan() -> None:
    operands = cases.LinearOperands(shapes.LINEAR["1b/o"], lambda _: None)
    assert not operands.half[0].isnan().any()
