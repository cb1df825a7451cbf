"""What Octet adds to vLLM's workers: they can be asked which kernels their model really uses."""

from collections import Counter
from typing import Any

_CLASS_NAMES = {"OctetQuantFP8": "per_token_quant_fp8", "OctetFP8LinearKernel": "fp8_linear"}


class WorkerExtension:
    """Methods for AsyncLLM.collective_rpc; vLLM mixes them into its worker class (`worker_extension_cls`)."""

    _octet_trace: Any = None

    def octet_active_kernels(self) -> dict[str, int]:
        """Counts, over the loaded model's quantized layers, the implementations that run in them.

        Returns:
            Keys such as "fp8_linear=octet/avx512_bf16", or with the name of vLLM's class after the "=".
        """
        from vllm.platforms import current_platform

        device = current_platform.device_type
        counts: Counter[str] = Counter()
        for kernel in _linear_kernels(self.model_runner.get_model()):  # type: ignore[attr-defined]
            counts[f"fp8_linear={_implementation(kernel, device)}"] += 1
            quant = getattr(kernel, "quant_fp8", None)
            if quant is not None and not quant.static:
                counts[f"per_token_quant_fp8={_implementation(quant, device)}"] += 1
        return dict(counts)

    def octet_start_trace(self) -> None:
        """Begins to record which operators run in this worker."""
        from torch.profiler import ProfilerActivity, profile

        self._octet_trace = profile(activities=[ProfilerActivity.CPU])
        self._octet_trace.start()

    def octet_stop_trace(self) -> dict[str, int]:
        """Ends the recording; returns how often each operator ran, by its qualified name."""
        trace, self._octet_trace = self._octet_trace, None
        trace.stop()
        return {event.key: event.count for event in trace.key_averages()}


def _linear_kernels(model: Any) -> list[Any]:
    """The FP8 linear kernel objects of a model's layers, wherever the quantization method keeps them."""
    found = []
    for module in model.modules():
        for holder in (getattr(module, "scheme", None), getattr(module, "quant_method", None)):
            kernel = getattr(holder, "fp8_linear", None)
            if kernel is not None:
                found.append(kernel)
                break
    return found


def _implementation(part: Any, device: str) -> str:
    """How a report names the class of a linear kernel or of a quantization operator."""
    name = type(part).__name__
    if name not in _CLASS_NAMES:
        return name
    from octet.engine.vllm import kernels

    return kernels.variant(device)
