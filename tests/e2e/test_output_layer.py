"""The product with an unquantized vocabulary: what the plugin makes of it, and where it stays vLLM's."""

import inspect
from typing import Any

import pytest
import torch
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

from octet.engine.vllm.inside import output_layer
from octet.engine.vllm.plugin import register

N, K = 208, 96

needs_kernel = pytest.mark.skipif(not output_layer._has_kernel(), reason="needs AVX512-BF16 without AMX")


@pytest.fixture(autouse=True)
def prepared_by_octet(monkeypatch: pytest.MonkeyPatch) -> None:
    stock = inspect.unwrap(UnquantizedEmbeddingMethod.process_weights_after_loading)
    monkeypatch.setattr(UnquantizedEmbeddingMethod, "process_weights_after_loading", stock)
    for _ in range(2):
        output_layer.register()


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def output_of(weight: torch.Tensor) -> Any:
    """A layer with this weight, as vLLM's loading leaves it."""
    layer: Any = torch.nn.Module()
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    UnquantizedEmbeddingMethod().process_weights_after_loading(layer)
    return layer


def multiply(layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    product: torch.Tensor = UnquantizedEmbeddingMethod().apply(layer, x, bias)
    return product


@needs_kernel
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", [(1, K), (3, K), (8, K), (33, K), (2, 5, K)])
def test_products_are_rounded_once(shape: tuple[int, ...], with_bias: bool) -> None:
    """f32 sums of exact products are off by 2^-24 of all magnitudes a term; rounding to bf16, by 2^-8."""
    weight, x = normal(N, K, seed=0), normal(*shape, seed=1)
    bias = normal(N, seed=2) if with_bias else None
    layer = output_of(weight)
    exact = torch.nn.functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    magnitudes = torch.nn.functional.linear(x.double().abs(), weight.double().abs()) + 10
    product = multiply(layer, x, bias)
    assert isinstance(layer.cpu_linear, output_layer.PackedProduct)
    assert product.dtype == torch.bfloat16
    assert product.shape == (*shape[:-1], N)
    error = (product.double() - exact).abs()
    assert (error <= exact.abs() * 2**-8 + magnitudes * K * 2**-24).all()


@needs_kernel
def test_what_is_never_multiplied_by_is_never_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An embedding and the output layer that is tied to it are both made ready; one of them multiplies."""
    packings: list[torch.Size] = []
    pack = torch.ops._C.convert_weight_packed

    def counted(weight: torch.Tensor) -> Any:
        packings.append(weight.shape)
        return pack(weight)

    monkeypatch.setattr(torch.ops._C, "convert_weight_packed", counted)
    embedding, output = output_of(normal(N, K, seed=0)), output_of(normal(N, K, seed=0))
    assert packings == []
    for _ in range(2):
        multiply(output, normal(1, K, seed=1))
    assert packings == [(N, K)]
    assert embedding.cpu_linear is not output.cpu_linear


@pytest.mark.parametrize(
    ("rows", "columns", "dtype"),
    [(N + 8, K, torch.bfloat16), (N, K + 16, torch.bfloat16), (N, K, torch.float32), (N, K, torch.float16)],
)
def test_other_shapes_and_dtypes_stay_vllms(rows: int, columns: int, dtype: torch.dtype) -> None:
    weight, x = normal(rows, columns, seed=0, dtype=dtype), normal(3, columns, seed=1, dtype=dtype)
    layer = output_of(weight)
    assert not isinstance(layer.cpu_linear, output_layer.PackedProduct)
    torch.testing.assert_close(
        multiply(layer, x), torch.nn.functional.linear(x, weight), rtol=2**-7, atol=0.1
    )


def test_the_switch_leaves_it_to_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    stock = inspect.unwrap(UnquantizedEmbeddingMethod.process_weights_after_loading)
    monkeypatch.setattr(UnquantizedEmbeddingMethod, "process_weights_after_loading", stock)
    monkeypatch.setenv("OCTET_KERNELS", "off")
    register()
    assert not isinstance(output_of(normal(N, K, seed=0)).cpu_linear, output_layer.PackedProduct)
