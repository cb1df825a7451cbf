"""Products with weights that are not quantized, the vocabulary's first: what the plugin makes of them, and
where they stay vLLM's.
"""

import inspect
from typing import Any

import pytest
import torch
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

from octet import ops
from octet.engine.vllm import kernels
from octet.engine.vllm.inside import bf16_layers, output_layer
from octet.engine.vllm.plugin import register

N, K = 208, 96
METHODS = (UnquantizedEmbeddingMethod, UnquantizedLinearMethod)

needs_kernel = pytest.mark.skipif(not output_layer._has_kernel(), reason="needs AVX512-BF16 without AMX")
needs_f32 = pytest.mark.skipif(not kernels.multiplies_bf16(), reason="needs a CPU that cannot multiply bf16")


@pytest.fixture(autouse=True)
def prepared_by_octet(monkeypatch: pytest.MonkeyPatch) -> None:
    restore_stock(monkeypatch)
    for _ in range(2):
        output_layer.register()
        bf16_layers.register()


def restore_stock(monkeypatch: pytest.MonkeyPatch) -> None:
    for method in METHODS:
        stock = inspect.unwrap(method.process_weights_after_loading)
        monkeypatch.setattr(method, "process_weights_after_loading", stock)


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def layer_of(method: type[Any], weight: torch.Tensor, **attributes: Any) -> Any:
    """A layer with this weight, as vLLM's loading leaves it."""
    layer: Any = torch.nn.Module()
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    for name, value in attributes.items():
        setattr(layer, name, value)
    layer.quant_method = method()
    layer.quant_method.process_weights_after_loading(layer)
    return layer


def output_of(weight: torch.Tensor) -> Any:
    return layer_of(UnquantizedEmbeddingMethod, weight)


def multiply(layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    product: torch.Tensor = layer.quant_method.apply(layer, x, bias)
    return product


def is_octets(layer: Any) -> bool:
    return isinstance(layer.cpu_linear, output_layer.PackedProduct) or (
        layer.cpu_linear is bf16_layers.multiply
    )


@pytest.mark.parametrize(
    ("method", "octets"),
    [
        pytest.param(UnquantizedEmbeddingMethod, "packed", marks=needs_kernel),
        pytest.param(UnquantizedEmbeddingMethod, "f32", marks=needs_f32),
        pytest.param(UnquantizedLinearMethod, "f32", marks=needs_f32),
    ],
)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", [(1, K), (3, K), (8, K), (33, K), (2, 5, K)])
def test_products_are_rounded_once(
    method: type[Any], octets: str, shape: tuple[int, ...], with_bias: bool
) -> None:
    """f32 sums of exact products are off by 2^-24 of all magnitudes a term; rounding to bf16, by 2^-8."""
    weight, x = normal(N, K, seed=0), normal(*shape, seed=1)
    bias = normal(N, seed=2) if with_bias else None
    layer = layer_of(method, weight)
    exact = torch.nn.functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    magnitudes = torch.nn.functional.linear(x.double().abs(), weight.double().abs()) + 10
    product = multiply(layer, x, bias)
    assert is_octets(layer)
    assert isinstance(layer.cpu_linear, output_layer.PackedProduct) is (octets == "packed")
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


@needs_f32
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("rows", "columns"), [(N + 8, K), (N, K + 16), (5, 7), (1, 1)])
def test_any_weight_is_read_where_it_lies(method: type[Any], rows: int, columns: int) -> None:
    weight, x = normal(rows, columns, seed=0), normal(3, columns, seed=1)
    layer = layer_of(method, weight)
    assert is_octets(layer)
    assert layer.weight.data_ptr() == weight.data_ptr()
    for _ in range(2):
        theirs = torch.nn.functional.linear(x, weight)
        torch.testing.assert_close(multiply(layer, x), theirs, rtol=2**-7, atol=0.1)
        weight.mul_(2)  # as the embedding that an output layer shares it with


@needs_f32
@pytest.mark.parametrize("method", METHODS)
def test_compiled_and_eager_products_are_the_same(method: type[Any]) -> None:
    layer = layer_of(method, normal(N, K, seed=0))
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x: multiply(layer, x + 1) * 2, backend="aot_eager", fullgraph=True, dynamic=True
    )
    for rows in (3, 5):
        x = normal(rows, K, seed=rows)
        assert torch.equal(compiled(x), multiply(layer, x + 1) * 2)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_dtypes_stay_vllms(method: type[Any], dtype: torch.dtype) -> None:
    weight, x = normal(N, K, seed=0, dtype=dtype), normal(3, K, seed=1, dtype=dtype)
    layer = layer_of(method, weight.clone())
    assert not is_octets(layer)
    torch.testing.assert_close(
        multiply(layer, x), torch.nn.functional.linear(x, weight), rtol=2**-7, atol=0.1
    )


@pytest.mark.parametrize(("rows", "columns"), [(N + 8, K), (N, K + 16)])
def test_what_is_no_whole_block_is_never_packed(rows: int, columns: int) -> None:
    weight, x = normal(rows, columns, seed=0), normal(3, columns, seed=1)
    layer = output_of(weight)
    assert not isinstance(layer.cpu_linear, output_layer.PackedProduct)
    torch.testing.assert_close(
        multiply(layer, x), torch.nn.functional.linear(x, weight), rtol=2**-7, atol=0.1
    )


def test_what_is_not_multiplied_so_stays_vllms() -> None:
    """Weights of causal convolutions, of layers that vLLM leaves alone, and those that are not loaded."""
    assert not hasattr(layer_of(UnquantizedLinearMethod, normal(N, 1, 3, seed=0)), "cpu_linear")
    skipped = layer_of(UnquantizedLinearMethod, normal(N, K, seed=0), _cpu_skip_gemm_dispatch=True)
    missing = layer_of(UnquantizedLinearMethod, torch.empty(N, K, dtype=torch.bfloat16, device="meta"))
    assert skipped.cpu_linear is missing.cpu_linear is torch.nn.functional.linear


@needs_f32
def test_the_portable_kernel_is_for_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "isa", lambda: "scalar")
    assert not is_octets(output_of(normal(N, K, seed=0)))
    assert kernels.BF16_LINEAR not in kernels.in_place("cpu")


def test_what_the_cpu_multiplies_itself_stays_vllms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    layer = layer_of(UnquantizedLinearMethod, normal(N, K, seed=0))
    assert layer.cpu_linear is not bf16_layers.multiply
    assert kernels.BF16_LINEAR not in kernels.in_place("cpu")


@needs_f32
def test_layers_are_counted_that_multiply_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not an embedding, nor what has found another way."""
    model = torch.nn.Module()
    model.embedding, model.output = (output_of(normal(N, K, seed=0)) for _ in range(2))
    model.layers = torch.nn.ModuleList(layer_of(UnquantizedLinearMethod, normal(N, K, seed=0)) for _ in "123")
    model.layers[0].quant_method = object()
    monkeypatch.setattr(bf16_layers.fp8_vocabulary, "output_layers", lambda model: [model.output])
    assert bf16_layers.count(model) == 3


def test_the_switch_leaves_it_to_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    restore_stock(monkeypatch)
    monkeypatch.setenv("OCTET_KERNELS", "off")
    register()
    assert not any(is_octets(layer_of(method, normal(N, K, seed=0))) for method in METHODS)
