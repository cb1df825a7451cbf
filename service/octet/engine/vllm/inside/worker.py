"""What Octet adds to vLLM's workers: they can be asked which kernels their model really uses."""

import importlib
from collections import Counter
from typing import Any

from octet import heap
from octet.engine.vllm import compat, kernels

_CLASS_NAMES = ("OctetQuantFP8", "OctetFP8LinearKernel")


class WorkerExtension:
    """Methods for AsyncLLM.collective_rpc; vLLM mixes them into its worker class (`worker_extension_cls`)."""

    _octet_trace: Any = None

    def octet_active_kernels(self) -> dict[str, int]:
        """Counts the loaded model's FP8 layers, and those that multiply bf16 by Octet, by what runs in them.

        Returns:
            Keys such as "fp8_linear=octet/avx512_bf16", or with the name of vLLM's class after the "=";
            "activations=unquantized" where the product's kernel takes them as they are.
        """
        from octet.engine.vllm.inside import bf16_layers

        device = compat.devices.platform()
        model = self.model_runner.get_model()  # type: ignore[attr-defined]
        fused = _fused_producers(model)
        counts: Counter[str] = Counter()
        for layer, kernel in _linear_kernels(model):
            counts[f"fp8_linear={_implementation(kernel, device)}"] += 1
            quant = getattr(kernel, "quant_fp8", None)
            if layer in fused:
                counts[f"{fused[layer]}={kernels.variant(device)}"] += 1
            elif not compat.kernels.quantizes_activations(kernel):
                counts["activations=unquantized"] += 1
            elif quant is not None and not quant.static:
                counts[f"per_token_quant_fp8={_implementation(quant, device)}"] += 1
        if count := bf16_layers.count(model):
            counts[f"{kernels.BF16_LINEAR}={kernels.variant(device)}"] = count
        return dict(counts)

    def octet_vocabulary_format(self) -> str:
        """The FP8 format of the layer that makes logits; "" where it is not FP8, or this rank has none."""
        from octet.engine.vllm.inside import fp8_vocabulary

        model = self.model_runner.get_model()  # type: ignore[attr-defined]
        found = {fp8_vocabulary.format_of(layer) for layer in fp8_vocabulary.output_layers(model)}
        return min(found, default="")

    def octet_prepare(self) -> None:
        """Imports what constrains decoding, before anybody waits for it, and gives memory back."""
        importlib.import_module("xgrammar")
        heap.settle()

    def octet_use_fused(self, wanted: bool) -> None:
        """Puts the model's fused producers into use or out of it, to compare the two; for eager mode."""
        for layer in _fused_layers(self.model_runner.get_model()):  # type: ignore[attr-defined]
            layer.consumer.requires_unquantized_input = not wanted

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


def _linear_kernels(model: Any) -> list[tuple[Any, Any]]:
    """A model's FP8 linear layers and their kernel objects, wherever the quantization method keeps these.

    What LoRA puts around a layer has the layer's own: it counts, and the layer in it does not again.
    """
    found: dict[int, tuple[Any, Any]] = {}
    for module in model.modules():
        for holder in (getattr(module, "scheme", None), getattr(module, "quant_method", None)):
            kernel = getattr(holder, "fp8_linear", None)
            if kernel is not None:
                found.setdefault(id(kernel), (module, kernel))
                break
    return list(found.values())


def _fused_producers(model: Any) -> dict[Any, str]:
    """The linear layers whose input arrives quantized, with the operator that does it."""
    return {layer.consumer: layer.operator for layer in _fused_layers(model) if layer.operator}


def _fused_layers(model: Any) -> list[Any]:
    from octet.engine.vllm.inside.fused import Producer

    return [module for module in model.modules() if isinstance(module, Producer)]


def _implementation(part: Any, device: str) -> str:
    """How a report names the class of a linear kernel or of a quantization operator."""
    name = type(part).__name__
    return kernels.variant(device) if name in _CLASS_NAMES else name
