"""The entry point `octet` of the group `vllm.general_plugins`.

vLLM calls `register` in every process that it starts, before a model is built, also under a plain
`vllm serve`. It must therefore be repeatable, and never the reason why vLLM does not start.
"""

import os

import octet
from octet.engine.vllm import compat, kernels
from octet.engine.vllm.launch import forkserver, sockets

# torch's own switch.
_HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"


def register() -> None:
    """Puts into vLLM Octet's kernels, quantization method, tool parser, constraints and count of requests.

    May be repeated.

    Raises:
        StartupError: when OCTET_KERNELS holds neither "on" nor "off".
    """
    wanted = kernels.wanted()
    from vllm.logger import init_logger

    logger = init_logger("vllm.plugins.octet")
    if reason := compat.unsupported_reason():
        logger.warning_once("octet does nothing here: %s", reason)
        return
    if (folder := sockets.own_folder()) is not None:
        compat.share_under_name_of(folder)
    if forkserver.is_forked():
        compat.processes.start_in(forkserver.ForkContext())
    compat.extend_core()
    compat.count_ranks_uncompiled()
    compat.tokenizers.share_processors()
    compat.constraints.follow()
    _register_tool_parser()
    _register_quantization()
    from vllm.platforms import current_platform

    device = current_platform.device_type
    if device == "cpu":
        from octet.engine.vllm.inside import picture_attention

        picture_attention.register(active=wanted)
        compat.cpu_runner.use()
    active = "off"
    if not wanted:
        logger.info_once("octet kernels off: %s=off", kernels.SWITCH, scope="global")
    elif reason := kernels.unavailable_reason(device):
        logger.warning_once("octet kernels off: %s; vLLM's own kernels stay", reason, scope="global")
    else:
        compat.sleep_between_messages()
        compat.keep_compiled_models()
        _map_tensors_in_huge_pages(device)
        active = f"{octet.__version__} {kernels.variant(device)}"
        _register_kernels(device)
    compat.set_compile_factor(kernels.SWITCH, active)


def _map_tensors_in_huge_pages(device: str) -> None:
    """On CPUs, makes torch ask for huge pages for large tensors, in the processes that this one starts.

    Decoding reads every weight once a token, and address translation takes a part of that time. torch looks
    at the variable when it first allocates, which in this process it has done.
    """
    if device == "cpu":
        os.environ.setdefault(_HUGE_PAGES, "1")


def _register_tool_parser() -> None:
    from vllm.tool_parsers import ToolParserManager

    ToolParserManager.register_lazy_module(
        "gemma3", "octet.engine.vllm.inside.gemma3_tool_parser", "Gemma3ToolParser"
    )


def _register_quantization() -> None:
    from octet.engine.vllm.inside import octet_fp8

    octet_fp8.register()


def _register_kernels(device: str) -> None:
    registry = compat.out_of_tree_ops()
    if "QuantFP8" in registry:
        return
    from vllm.model_executor.layers.quantization.input_quant_fp8 import QuantFP8

    from octet.engine.vllm.inside import fused, linear, output_layer
    from octet.engine.vllm.inside.quant import OctetQuantFP8
    from octet.engine.vllm.inside.vision import install

    name = QuantFP8.name
    QuantFP8.register_oot(OctetQuantFP8, name="QuantFP8")
    # register_oot renames the class; what users switch with --compilation-config custom_ops keeps its name.
    OctetQuantFP8.name = name
    available = kernels.operators(device)
    if device == "cpu":
        output_layer.register()
        install.register()
    if "fp8_linear" in available:
        linear.register()
    if set(kernels.FUSED) <= set(available):
        fused.register(device)
