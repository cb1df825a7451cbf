"""The CUDA kernels against the oracle: simulated on the host, and on a GPU where there is one."""

import math
from collections.abc import Iterator
from typing import Any, Protocol

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octet import ops
from octet.ops import reference
from tests.kernels.simt.simulation import DTYPES, FORMATS, Order, Simulation

NAN, INF = math.nan, math.inf
# At least one row length for every kernel, at its ends: a warp a row, a block with one and with two
# chunks a thread, staged in shared memory, and read again.
HIDDEN = [17, 1024, 1025, 1152, 3840, 8192, 8200, 16384, 16400, 32768, 52000]

formats = pytest.mark.parametrize("fmt", FORMATS, ids=["e4m3", "e5m2"])
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f16", "bf16"])

Quantized = tuple[torch.Tensor, torch.Tensor]


class Kernels(Protocol):
    """The kernels as functions of tensors of the host."""

    def per_token_quant_fp8(
        self, x: torch.Tensor, fmt: torch.dtype, scale_ub: torch.Tensor | None = None
    ) -> Quantized: ...

    def gemma_rms_norm_quant_fp8(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        eps: float,
        fmt: torch.dtype,
        residual: torch.Tensor | None = None,
    ) -> Quantized: ...

    def rms_norm_quant_fp8(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        eps: float,
        fmt: torch.dtype,
        residual: torch.Tensor | None = None,
    ) -> Quantized: ...

    def qk_norm_rope(self, qkv: torch.Tensor, *arguments: Any) -> None: ...

    def gemma_norm_add_norm_quant_fp8(
        self,
        x: torch.Tensor,
        post_weight: torch.Tensor,
        residual: torch.Tensor,
        weight: torch.Tensor,
        eps: float,
        fmt: torch.dtype,
    ) -> Quantized: ...

    def gemma_rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor: ...

    def gelu_tanh_and_mul_quant_fp8(self, x: torch.Tensor, fmt: torch.dtype) -> Quantized: ...

    def silu_and_mul_quant_fp8(self, x: torch.Tensor, fmt: torch.dtype) -> Quantized: ...


def on_gpu(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """The tensor on the GPU, with the strides and the alignment that it has here."""
    if tensor is None:
        return None
    memory = torch.empty(tensor.untyped_storage().nbytes() // tensor.itemsize, dtype=tensor.dtype)
    whole = memory.set_(tensor.untyped_storage()).cuda()
    return whole.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


class Gpu:
    """The operators on CUDA tensors."""

    def per_token_quant_fp8(
        self, x: torch.Tensor, fmt: torch.dtype, scale_ub: torch.Tensor | None = None
    ) -> Quantized:
        return to_host(torch.ops.octet.per_token_quant_fp8(on_gpu(x), fmt, on_gpu(scale_ub)))

    def gemma_rms_norm_quant_fp8(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        eps: float,
        fmt: torch.dtype,
        residual: torch.Tensor | None = None,
    ) -> Quantized:
        return self._norm_quant("gemma_rms_norm_quant_fp8", x, weight, eps, fmt, residual)

    def rms_norm_quant_fp8(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        eps: float,
        fmt: torch.dtype,
        residual: torch.Tensor | None = None,
    ) -> Quantized:
        return self._norm_quant("rms_norm_quant_fp8", x, weight, eps, fmt, residual)

    def _norm_quant(
        self,
        operator: str,
        x: torch.Tensor,
        weight: torch.Tensor,
        eps: float,
        fmt: torch.dtype,
        residual: torch.Tensor | None,
    ) -> Quantized:
        there = on_gpu(residual)
        quantized = getattr(torch.ops.octet, operator)(on_gpu(x), on_gpu(weight), eps, fmt, there)
        if residual is not None and there is not None:
            residual.copy_(there)
        return to_host(quantized)

    def qk_norm_rope(self, qkv: torch.Tensor, *arguments: Any) -> None:
        there = on_gpu(qkv)
        moved = (
            on_gpu(argument) if isinstance(argument, torch.Tensor) else argument for argument in arguments
        )
        torch.ops.octet.qk_norm_rope(there, *moved)
        if there is not None:
            qkv.copy_(there)

    def gemma_norm_add_norm_quant_fp8(
        self,
        x: torch.Tensor,
        post_weight: torch.Tensor,
        residual: torch.Tensor,
        weight: torch.Tensor,
        eps: float,
        fmt: torch.dtype,
    ) -> Quantized:
        there = on_gpu(residual)
        quantized = torch.ops.octet.gemma_norm_add_norm_quant_fp8(
            on_gpu(x), on_gpu(post_weight), there, on_gpu(weight), eps, fmt
        )
        if there is not None:
            residual.copy_(there)
        return to_host(quantized)

    def gemma_rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        out: torch.Tensor = torch.ops.octet.gemma_rms_norm(on_gpu(x), on_gpu(weight), eps)
        return out.cpu()

    def gelu_tanh_and_mul_quant_fp8(self, x: torch.Tensor, fmt: torch.dtype) -> Quantized:
        return to_host(torch.ops.octet.gelu_tanh_and_mul_quant_fp8(on_gpu(x), fmt))

    def silu_and_mul_quant_fp8(self, x: torch.Tensor, fmt: torch.dtype) -> Quantized:
        return to_host(torch.ops.octet.silu_and_mul_quant_fp8(on_gpu(x), fmt))


def to_host(quantized: Quantized) -> Quantized:
    return quantized[0].cpu(), quantized[1].cpu()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The oracle computes on small tensors, for which torch's threads only get into each other's way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def simulation(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    return Simulation(tmp_path_factory.mktemp("simt"))


@pytest.fixture(scope="module", params=["simulated", "gpu"])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    if request.param == "simulated":
        kernels: Kernels = request.getfixturevalue("simulation")
        return kernels
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    if not ops.cuda_archs():
        pytest.skip("octet was built without CUDA")
    return Gpu()


def assert_same_bits(actual: Quantized, expected: Quantized) -> None:
    assert torch.equal(actual[1].view(torch.int32), expected[1].view(torch.int32)), "scales"
    assert torch.equal(actual[0].view(torch.uint8), expected[0].view(torch.uint8)), "codes"


def check(kernels: Kernels, x: torch.Tensor, fmt: torch.dtype, bound: float | None = None) -> None:
    scale_ub = None if bound is None else torch.tensor([bound])
    assert_same_bits(
        kernels.per_token_quant_fp8(x, fmt, scale_ub), reference.per_token_quant_fp8(x, fmt, scale_ub)
    )


def layouts(x: torch.Tensor, hidden: int) -> Iterator[torch.Tensor]:
    """Rows of `hidden` elements of `x`, which has 16 more: on 16 bytes, beside it, strided."""
    yield x[:, :hidden].contiguous()
    yield x[:, 3 : 3 + hidden]
    yield x[:, 16 : 16 + hidden]


@formats
@dtypes
@pytest.mark.parametrize("hidden", HIDDEN)
def test_every_kernel_equals_the_oracle(
    kernels: Kernels, fmt: torch.dtype, dtype: torch.dtype, hidden: int
) -> None:
    generator = torch.Generator().manual_seed(hidden)
    magnitudes = torch.tensor([[1e-6], [0.1], [1.0], [3000.0], [0.0]])
    x = (torch.randn(5, hidden + 16, generator=generator) * magnitudes).to(dtype)
    for rows in layouts(x, hidden):
        check(kernels, rows, fmt)
        check(kernels, rows, fmt, bound=0.7)


@formats
@dtypes
@pytest.mark.parametrize("shape", [(0, 0), (0, 64), (3, 0), (1, 1), (7, 1152)])
def test_empty_tensors_and_rows_that_fill_no_block(
    kernels: Kernels, fmt: torch.dtype, dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    check(kernels, torch.ones(shape, dtype=dtype), fmt)


def special_rows(dtype: torch.dtype, hidden: int) -> torch.Tensor:
    """Rows of values that arithmetic treats apart, in every position of a pair."""
    info = torch.finfo(dtype)
    numbers = [0.0, -0.0, info.smallest_normal, -info.smallest_normal / 2, info.max, -info.max, 1.0, -3.5]
    rows = [
        [NAN, *numbers],
        [INF, *numbers],
        [-INF, *numbers],
        [NAN, INF, -INF, *numbers],
        [NAN],
        [-INF],
        [-0.0],
        [info.smallest_normal / 4, -info.smallest_normal / 2],
    ]
    repeated = [(row * hidden)[:hidden] for row in rows]
    return torch.tensor(repeated, dtype=torch.float64).to(dtype)


@formats
@dtypes
@pytest.mark.parametrize("hidden", [9, 64, 2000, 10000, 17000])
def test_special_values(kernels: Kernels, fmt: torch.dtype, dtype: torch.dtype, hidden: int) -> None:
    # With small bounds the quotients overflow f32; with infinite or NaN ones nothing is bounded.
    for bound in (None, 0.0, -1.0, 1e-30, 0.7, 3e38, INF, NAN):
        check(kernels, special_rows(dtype, hidden), fmt, bound)


@formats
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
@pytest.mark.parametrize("hidden", [256, 2048, 65536])
def test_every_16_bit_value(kernels: Kernels, fmt: torch.dtype, dtype: torch.dtype, hidden: int) -> None:
    values = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(dtype)
    for bound in (None, 771.3, 1e-3):
        check(kernels, values.view(-1, hidden), fmt, bound)


@formats
def test_any_bits_of_f32(kernels: Kernels, fmt: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (64, 1200), generator=generator, dtype=torch.int64)
    x = bits.to(torch.int32).view(torch.float32)
    for bound in (None, 1e-3, 1.0, 1e30):
        check(kernels, x, fmt, bound)


def ordered(codes: torch.Tensor) -> torch.Tensor:
    """Codes as integers in the order of their values, neighbours one apart."""
    bits = codes.view(torch.uint8).to(torch.int32)
    return torch.where(bits >= 128, 128 - bits, bits)


def assert_nearly_same(actual: Quantized, expected: Quantized, tolerance: torch.Tensor | float = 0.0) -> None:
    """What the contract asks of fused kernels: scales within 1e-6, and 99.9 % of the codes identical.

    The others are neighbours. Codes whose values differ by no more than `tolerance` count as identical.
    """
    torch.testing.assert_close(actual[1], expected[1], rtol=1e-6, atol=0.0)
    distance = (ordered(actual[0]) - ordered(expected[0])).abs()
    error = (actual[0].float() - expected[0].float()).abs() * expected[1]
    distance = distance.masked_fill(error <= tolerance, 0)
    assert not (distance > 1).any()
    assert int(distance.count_nonzero()) <= max(1, distance.numel() // 1000)


@formats
@dtypes
@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("activation", ["gelu_tanh", "silu"])
def test_activation_product_and_quantization(
    kernels: Kernels, fmt: torch.dtype, dtype: torch.dtype, hidden: int, activation: str
) -> None:
    kernel = getattr(kernels, f"{activation}_and_mul_quant_fp8")
    oracle = getattr(reference, f"{activation}_and_mul_quant_fp8")
    generator = torch.Generator().manual_seed(hidden)
    magnitudes = torch.tensor([[1e-3], [1.0], [2.0], [30.0], [0.0]])
    x = (torch.randn(5, 2 * hidden + 16, generator=generator) * magnitudes).to(dtype)
    for rows in layouts(x, 2 * hidden):
        gate, up = rows.float().tensor_split(2, dim=1)
        # 1 + tanh(u) of a negative u has lost its digits: a few units of 2^-24, times gate / 2 and up.
        tolerance = (gate * up).abs() * 2**-22 if activation == "gelu_tanh" else 0.0
        assert_nearly_same(kernel(rows, fmt), oracle(rows, fmt), tolerance)


@formats
@dtypes
@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("with_residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("norm", ["gemma_rms_norm_quant_fp8", "rms_norm_quant_fp8"])
def test_norm_and_quantization(
    kernels: Kernels, fmt: torch.dtype, dtype: torch.dtype, hidden: int, norm: str, with_residual: bool
) -> None:
    generator = torch.Generator().manual_seed(hidden)
    magnitudes = torch.tensor([[1e-3], [1.0], [30.0], [0.0]])
    x = (torch.randn(4, hidden + 16, generator=generator) * magnitudes).to(dtype)
    weight = (torch.randn(hidden, generator=generator) * 0.3).to(dtype)
    residuals = torch.randn(4, hidden + 16, generator=generator).to(dtype)
    for rows, residual in zip(layouts(x, hidden), reversed([*layouts(residuals, hidden)]), strict=True):
        before = residual.clone() if with_residual else None
        after = residual if with_residual else None
        # A norm that rounds twice has an element's neighbour times the weight.
        slack = last_places(rows, weight, before) if norm == "rms_norm_quant_fp8" else 0.0
        expected = getattr(reference, norm)(rows, weight, 1e-6, fmt, before)
        assert_nearly_same(getattr(kernels, norm)(rows, weight, 1e-6, fmt, after), expected, slack)
        if before is not None:
            assert torch.equal(residual, before)


def last_places(x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
    """Two last places of each element of a norm whose rows are rounded before they are multiplied."""
    total = x.float() + (0.0 if residual is None else residual.float())
    normed = total * torch.rsqrt(total.pow(2).mean(dim=1, keepdim=True) + 1e-6)
    return (normed * weight.float()).abs() * (2 * torch.finfo(x.dtype).eps)


def assert_rounded_alike(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """The same but for the order of a sum of squares, which rounds few numbers to their neighbours.

    Those may be the numbers that a residual is added to, and larger than the sum.
    """
    ulp = torch.finfo(expected.dtype).eps
    torch.testing.assert_close(actual, expected, rtol=2 * ulp, atol=16 * ulp, equal_nan=True)


def slack_of_two_norms(
    x: torch.Tensor, weights: tuple[torch.Tensor, torch.Tensor], residual: torch.Tensor
) -> torch.Tensor:
    """What a last place of the first norm's result makes of the second's: it may all but cancel the
    residual.
    """
    post_weight, weight = weights
    normed = reference.gemma_rms_norm(x, post_weight, 1e-6).float()
    total = normed + residual.float()
    inverse_rms = torch.rsqrt(total.pow(2).mean(dim=1, keepdim=True) + 1e-6)
    last_place = normed.abs() * (2 * torch.finfo(x.dtype).eps)
    return last_place * inverse_rms * (1.0 + weight.float()).abs()


@formats
@dtypes
@pytest.mark.parametrize("hidden", HIDDEN)
def test_two_norms_and_quantization(
    kernels: Kernels, fmt: torch.dtype, dtype: torch.dtype, hidden: int
) -> None:
    generator = torch.Generator().manual_seed(hidden)
    magnitudes = torch.tensor([[1e-3], [1.0], [30.0], [0.0]])
    x = (torch.randn(4, hidden + 16, generator=generator) * magnitudes).to(dtype)
    post_weight, weight = (torch.randn(2, hidden, generator=generator) * 0.3).to(dtype).unbind()
    residuals = torch.randn(4, hidden + 16, generator=generator).to(dtype)
    for rows, residual in zip(layouts(x, hidden), reversed([*layouts(residuals, hidden)]), strict=True):
        before = residual.clone()
        slack = slack_of_two_norms(rows, (post_weight, weight), residual)
        expected = reference.gemma_norm_add_norm_quant_fp8(rows, post_weight, before, weight, 1e-6, fmt)
        actual = kernels.gemma_norm_add_norm_quant_fp8(rows, post_weight, residual, weight, 1e-6, fmt)
        assert_nearly_same(actual, expected, slack)
        assert_rounded_alike(residual, before)


@dtypes
@pytest.mark.parametrize("hidden", [1, 17, 128, 256, *HIDDEN])
def test_plain_norm(kernels: Kernels, dtype: torch.dtype, hidden: int) -> None:
    """Of rows, and of heads, which lie in the output of a larger projection."""
    generator = torch.Generator().manual_seed(hidden)
    weight = (torch.randn(hidden, generator=generator) * 0.3).to(dtype)
    x = torch.randn(3, 2 * hidden + 16, generator=generator).to(dtype)
    for at in (0, 3, 16):
        for rows in (x[:, at : at + hidden], x[:, at : at + 2 * hidden].unflatten(1, (2, hidden))):
            actual = kernels.gemma_rms_norm(rows, weight, 1e-6)
            assert_rounded_alike(actual, reference.gemma_rms_norm(rows, weight, 1e-6))


@pytest.mark.parametrize("shape", [(0, 64), (3, 0), (0, 4, 64), (3, 0, 64), (1, 1)])
def test_plain_norm_of_nothing(kernels: Kernels, shape: tuple[int, ...]) -> None:
    assert kernels.gemma_rms_norm(torch.ones(shape), torch.ones(shape[-1]), 1e-6).shape == shape


@dtypes
@pytest.mark.parametrize("gemma", [False, True], ids=["plain", "gemma"])
@pytest.mark.parametrize(
    "shape", [(4, 1, 256, 256), (16, 8, 128, 64), (3, 2, 34, 18), (1, 0, 7, 2), (0, 3, 2, 0)]
)
def test_norm_and_rotation_of_heads(
    kernels: Kernels, dtype: torch.dtype, gemma: bool, shape: tuple[int, int, int, int]
) -> None:
    q_heads, k_heads, head_size, rotary_dim = shape
    generator = torch.Generator().manual_seed(head_size)
    width = (q_heads + k_heads) * head_size
    buffer = torch.randn(7, width + 19, generator=generator).to(dtype)
    weight = (torch.randn(head_size, generator=generator) * 0.3 + (not gemma)).to(dtype)
    cos_sin = torch.randn(11, rotary_dim + 3, generator=generator).to(dtype)[:, :rotary_dim]
    positions = torch.tensor([0, 10, 3, 3, 9, 1, 0])
    for weights in ((weight, -weight), (weight, None), (None, None)):
        expected, qkv = buffer.clone(), buffer.clone()
        arguments = (*weights, 1e-6, gemma, positions, cos_sin, q_heads, k_heads, head_size)
        reference.qk_norm_rope(expected[:, 3 : width + 11], *arguments)
        kernels.qk_norm_rope(qkv[:, 3 : width + 11], *arguments)
        assert_rounded_alike(qkv[:, 3 : width + 3], expected[:, 3 : width + 3])
        assert torch.equal(qkv[:, :3], buffer[:, :3])
        assert torch.equal(qkv[:, width + 3 :], buffer[:, width + 3 :])


@formats
@dtypes
@pytest.mark.parametrize("hidden", [9, 2000, 17000])
def test_special_values_in_two_norms(
    kernels: Kernels, fmt: torch.dtype, dtype: torch.dtype, hidden: int
) -> None:
    x = special_rows(dtype, hidden)
    weight = torch.full((hidden,), 0.25).to(dtype)
    for eps in (1e-6, 0.0):
        residual = x.roll(1, 0)
        before = residual.clone()
        expected = reference.gemma_norm_add_norm_quant_fp8(x, weight, before, weight, eps, fmt)
        actual = kernels.gemma_norm_add_norm_quant_fp8(x, weight, residual, weight, eps, fmt)
        assert_nearly_same(actual, expected)
        assert torch.equal(residual.isnan(), before.isnan())


@formats
@dtypes
@pytest.mark.parametrize("hidden", [9, 2000, 17000])
def test_special_values_in_fused_kernels(
    kernels: Kernels, fmt: torch.dtype, dtype: torch.dtype, hidden: int
) -> None:
    x = special_rows(dtype, hidden)
    # The element that makes the norm's factor NaN or zero, and rows of nothing but zeros.
    weight = torch.full((hidden,), 0.25).to(dtype)
    for eps in (1e-6, 0.0):
        for name in ("gemma_rms_norm_quant_fp8", "rms_norm_quant_fp8"):
            expected = getattr(reference, name)(x, weight, eps, fmt)
            assert_nearly_same(getattr(kernels, name)(x, weight, eps, fmt), expected)
    gated = torch.cat([x, x.roll(1, 1)], dim=1)
    for name in ("gelu_tanh_and_mul_quant_fp8", "silu_and_mul_quant_fp8"):
        assert_nearly_same(getattr(kernels, name)(gated, fmt), getattr(reference, name)(gated, fmt))


@formats
@pytest.mark.parametrize("shape", [(0, 0), (0, 64), (3, 0), (1, 1)])
def test_empty_tensors_in_fused_kernels(kernels: Kernels, fmt: torch.dtype, shape: tuple[int, int]) -> None:
    x = torch.ones(shape).bfloat16()
    weight = torch.ones(shape[1]).bfloat16()
    expected = reference.gemma_rms_norm_quant_fp8(x, weight, 1e-6, fmt)
    assert_nearly_same(kernels.gemma_rms_norm_quant_fp8(x, weight, 1e-6, fmt), expected)
    gated = torch.ones(shape[0], 2 * shape[1]).bfloat16()
    for name in ("gelu_tanh_and_mul_quant_fp8", "silu_and_mul_quant_fp8"):
        assert_nearly_same(getattr(kernels, name)(gated, fmt), getattr(reference, name)(gated, fmt))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(0, 9),
    hidden=st.integers(0, 2300),
    offset=st.integers(0, 17),
    gap=st.integers(0, 33),
    dtype=st.sampled_from(DTYPES),
    fmt=st.sampled_from(FORMATS),
)
def test_any_layout(
    kernels: Kernels, rows: int, hidden: int, offset: int, gap: int, dtype: torch.dtype, fmt: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(rows * 10007 + hidden)
    x = torch.randn(rows, offset + hidden + gap, generator=generator).to(dtype)
    check(kernels, x[:, offset : offset + hidden], fmt)


def test_codes_that_lie_beside_16_bytes(simulation: Simulation) -> None:
    x = torch.randn(5, 1152).bfloat16()
    try:
        for simulation.output_offset in (1, 3, 8):
            check(simulation, x, torch.float8_e4m3fn)
            check(simulation, x[:, :515], torch.float8_e5m2)
    finally:
        simulation.output_offset = 0


def run_all(simulation: Simulation, hidden: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """What every kernel makes of rows of this length."""
    generator = torch.Generator().manual_seed(hidden)
    gated = torch.randn(5, 2 * hidden, generator=generator).to(dtype)
    x, residual, weight = gated[:, :hidden], gated[:, hidden:].clone(), gated[0, :hidden].clone()
    fmt = torch.float8_e4m3fn
    results = [
        simulation.per_token_quant_fp8(x, fmt),
        simulation.gelu_tanh_and_mul_quant_fp8(gated, fmt),
        simulation.silu_and_mul_quant_fp8(gated, fmt),
        simulation.gemma_rms_norm_quant_fp8(x, weight, 1e-6, fmt, residual),
        simulation.rms_norm_quant_fp8(x, weight, 1e-6, fmt, residual),
        simulation.gemma_norm_add_norm_quant_fp8(x, weight, residual, weight, 1e-6, fmt),
    ]
    normed = simulation.gemma_rms_norm(x, weight, 1e-6)
    heads = gated.clone()
    cos_sin = weight[: hidden // 2 * 2].unsqueeze(0)
    simulation.qk_norm_rope(
        heads, weight, weight, 1e-6, True, torch.zeros(5, dtype=torch.int64), cos_sin, 1, 1, hidden
    )
    return [residual, normed, heads, *(tensor for result in results for tensor in result)]


@pytest.mark.parametrize("hidden", HIDDEN)
def test_results_do_not_depend_on_the_order_of_threads(simulation: Simulation, hidden: int) -> None:
    expected = run_all(simulation, hidden, torch.bfloat16)
    try:
        for simulation.order in (Order.BACKWARD, Order.SHUFFLED):
            for got, want in zip(run_all(simulation, hidden, torch.bfloat16), expected, strict=True):
                assert torch.equal(got.view(torch.uint8), want.view(torch.uint8))
    finally:
        simulation.order = Order.FORWARD


def test_every_instance_of_the_kernel_templates_has_run(simulation: Simulation) -> None:
    for hidden in (64, 2048, 16384, 20000):
        for dtype in DTYPES:
            run_all(simulation, hidden, dtype)
    sources, kernels_of_a_source, others = 7, 4, 1
    assert simulation.kernels_run() == (sources * kernels_of_a_source + others) * len(DTYPES)


def test_the_simulation_notices_barriers_that_threads_miss(simulation: Simulation) -> None:
    assert simulation.refuses("barrier_not_reached")
    assert simulation.refuses("exchange_of_half_a_warp")


def test_the_simulation_shows_a_missing_barrier(simulation: Simulation) -> None:
    assert simulation.read_without_barrier(Order.FORWARD) != simulation.read_without_barrier(Order.BACKWARD)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.skipif(not ops.cuda_archs(), reason="octet was built without CUDA")
def test_gpu_kernels_can_be_captured_in_a_graph() -> None:
    x = torch.randn(4, 3840, device="cuda", dtype=torch.bfloat16)
    ops.per_token_quant_fp8(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        q, scale = ops.per_token_quant_fp8(x)
    x.normal_()
    graph.replay()
    assert_same_bits(to_host((q, scale)), reference.per_token_quant_fp8(x.cpu()))
