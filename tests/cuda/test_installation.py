"""What was built beside a CUDA torch: it loads, its operators have CUDA kernels, and vLLM finds them."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

FP8 = torch.float8_e4m3fn
T, K = 5, 192


def test_the_cuda_library_is_loaded() -> None:
    from octet import ops
    from octet.ops import library

    assert library.cuda_loaded
    assert ops.build_info()["torch"] == torch.__version__
    assert ops.build_info()["cuda_compiler"] == f"nvcc {torch.version.cuda}"


def test_every_operator_but_the_product_has_a_cuda_kernel() -> None:
    from octet.engine.vllm import kernels

    assert set(kernels.operators("cuda")) == set(kernels.OPERATORS) - {"fp8_linear"}
    assert set(kernels.operators("cpu")) == set(kernels.OPERATORS)
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    assert has("octet::per_token_quant_fp8_out", "CUDA")


def calls() -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Each operator with arguments on the current device."""
    ops = torch.ops.octet
    x, weight = torch.empty(T, K, dtype=torch.bfloat16), torch.empty(K, dtype=torch.bfloat16)
    yield ops.per_token_quant_fp8, (x, FP8, torch.empty(1))
    yield ops.gemma_rms_norm, (x.view(T, 3, K // 3), weight[: K // 3], 1e-6)
    yield ops.gemma_rms_norm_quant_fp8, (x, weight, 1e-6, FP8, torch.empty_like(x))
    yield ops.rms_norm_quant_fp8, (x, weight, 1e-6, FP8, torch.empty_like(x))
    heads, cos_sin = (
        (weight[: K // 3], weight[: K // 3], 1e-6, False),
        torch.empty(9, 8, dtype=torch.bfloat16),
    )
    yield ops.qk_norm_rope, (x, *heads, torch.empty(T, dtype=torch.int64), cos_sin, 2, 1, K // 3)
    yield ops.gemma_norm_add_norm_quant_fp8, (x, weight, torch.empty_like(x), weight, 1e-6, FP8)
    yield ops.gelu_tanh_and_mul_quant_fp8, (torch.empty(T, 2 * K, dtype=torch.bfloat16), FP8)
    yield ops.silu_and_mul_quant_fp8, (torch.empty(T, 2 * K, dtype=torch.bfloat16), FP8)


def test_fake_kernels_answer_for_the_device() -> None:
    import octet.ops  # noqa: F401

    with FakeTensorMode(), torch.device("cuda"):
        for operator, arguments in calls():
            results = operator(*arguments)
            for result in results if isinstance(results, tuple) else (results,):
                assert result.device.type == "cuda", operator
                assert result.shape[0] == T


def test_opcheck_beside_a_cuda_torch() -> None:
    import octet.ops  # noqa: F401

    for operator, arguments in calls():
        real = tuple(a.zero_() if isinstance(a, torch.Tensor) else a for a in arguments)
        torch.library.opcheck(operator.default, real, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_everything_says_so_in_one_line() -> None:
    serve = [sys.executable, "-m", "octet", "serve"]
    for command, status in ((serve, 1), ([sys.executable, "-m", "octet", "doctor"], 1)):
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)
        assert result.returncode == status
        assert "Traceback" not in result.stderr
        assert "no GPU can be used" in result.stdout + result.stderr
    plain = "from vllm.plugins import load_general_plugins; load_general_plugins()"
    result = subprocess.run(
        [sys.executable, "-c", plain], capture_output=True, text=True, check=False, timeout=250
    )
    assert result.returncode == 0, result.stderr
    assert "octet does nothing here: vLLM sees no device; no GPU can be used" in result.stdout + result.stderr
