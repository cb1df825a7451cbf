"""vLLM's compiler pass that fuses a norm with a quantization finds Octet's operator, on a pretended
device.
"""

import ctypes
import importlib.util
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

T, K = 16, 256


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Something in the place of the driver's library, which vLLM's own are linked to; calling it ends the
    process.
    """
    if torch.cuda.is_available():
        return
    package = importlib.util.find_spec("vllm")
    assert package is not None
    assert package.origin is not None
    libraries = [str(path) for path in Path(package.origin).parent.glob("*.so")]
    command = ["nm", "--dynamic", "--undefined-only", *libraries]
    wanted = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = set(re.findall(r" U (cu[A-Z]\w+)", wanted))
    assert names
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.c").write_text(
        "".join(f"void {name}(void) {{ __builtin_trap(); }}\n" for name in names)
    )
    library = str(folder / "libcuda.so.1")
    soname = "-Wl,-soname,libcuda.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", soname, str(folder / "driver.c"), "-o", library], check=True)
    ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)


@pytest.fixture
def pretended(driver: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """An H100 as far as vLLM asks, where there is none."""
    if torch.cuda.is_available():
        return
    from vllm.platforms.cuda import CudaPlatformBase
    from vllm.platforms.interface import DeviceCapability

    class Hopper(CudaPlatformBase):  # type: ignore[misc]
        @classmethod
        def get_device_capability(cls, device_id: int = 0) -> DeviceCapability:
            return DeviceCapability(9, 0)

        @classmethod
        def get_device_name(cls, device_id: int = 0) -> str:
            return "NVIDIA H100"

        @classmethod
        def get_device_total_memory(cls, device_id: int = 0) -> int:
            return 80 << 30

    monkeypatch.setattr("vllm.platforms._current_platform", Hopper())


@pytest.mark.usefixtures("pretended")
@pytest.mark.parametrize("custom_ops", [[], ["+quant_fp8"]], ids=["default", "+quant_fp8"])
@pytest.mark.parametrize("with_residual", [False, True])
def test_a_norm_and_octets_quantization_become_one_kernel(custom_ops: list[str], with_residual: bool) -> None:
    from vllm.config import CompilationConfig, DeviceConfig, VllmConfig, set_current_vllm_config

    from octet.engine.vllm import plugin

    plugin.register()
    assert plugin.failure is None
    config = VllmConfig(
        compilation_config=CompilationConfig(custom_ops=custom_ops, pass_config={"fuse_norm_quant": True}),
        device_config=DeviceConfig(device="cuda"),
    )
    with set_current_vllm_config(config):
        import vllm.ir.ops
        from vllm.compilation.passes.fusion.rms_quant_fusion import RMSNormQuantFusionPass
        from vllm.model_executor.layers.quantization.input_quant_fp8 import QuantFP8
        from vllm.model_executor.layers.quantization.utils.quant_utils import GroupShape

        quant = QuantFP8(static=False, group_shape=GroupShape.PER_TOKEN)
        assert type(quant).__name__ == "OctetQuantFP8"

        def layer(x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor) -> tuple[Any, ...]:
            if with_residual:
                normed, residual = vllm.ir.ops.fused_add_rms_norm(x, residual, weight, 1e-6)
            else:
                normed = vllm.ir.ops.rms_norm(x, weight, 1e-6)
            return *quant(normed), residual

        from torch._subclasses.fake_tensor import FakeTensorMode

        with FakeTensorMode() as mode, torch.device("cuda"):
            x, residual = (torch.empty(T, K, dtype=torch.bfloat16) for _ in range(2))
            weight = torch.empty(K, dtype=torch.bfloat16)
        with mode:
            graph = make_fx(layer, tracing_mode="fake")(x, weight, residual)
            fusion = RMSNormQuantFusionPass(config)
            fusion(graph.graph)
    assert fusion.matched_count == 1
    assert "octet" not in str(graph.graph)
